"""One scale for many maps, which need not be in memory together."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_explain.render.arrays import Picture
from bcos_explain.render.colour import PERCENTILE

SMOOTH_224 = 15
"""Side of the mean filter over the opacity of images of 224 pixels (Böhle et al., TPAMI 2024)."""


def smoothing(size: int) -> int:
    """Odd side of the mean filter for images of `size` pixels, in proportion to 15 at 224."""
    return 2 * round(SMOOTH_224 * size / 224 / 2 - 0.5) + 1


def percentile_of_many(arrays: Iterable[Picture], count: int, percentile: float = PERCENTILE) -> float:
    """The percentile of all non-negative values of all arrays, their maximum where that is 0.

    What ``numpy.percentile`` gives for the arrays joined together, exactly; only the values above the
    percentile are held in memory.

    Args:
        arrays: of any shapes.
        count: how many values they hold in all.
        percentile: in [0, 100].

    Raises:
        BcosError: no values, another number of them than `count`, or a percentile outside [0, 100].
    """
    if not 0 <= percentile <= 100:
        raise BcosError(f"percentile must be in [0, 100], got {percentile}")
    position = percentile / 100 * (count - 1)
    keep = count - math.floor(position)
    largest: NDArray[np.float64] = np.empty(0)
    seen = 0
    for array in arrays:
        seen += array.size
        joined = np.concatenate([largest, np.asarray(array, np.float64).ravel()])
        largest = np.partition(joined, len(joined) - keep)[-keep:] if len(joined) > keep else joined
    if seen != count or count == 0:
        raise BcosError(f"the arrays hold {seen} values, not {count}; the count must be theirs, and positive")
    largest.sort()
    above = largest[min(1, keep - 1)]
    return float(largest[0] + (above - largest[0]) * (position - math.floor(position))) or float(largest[-1])
