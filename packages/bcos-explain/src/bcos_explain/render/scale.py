"""The scale of a map or of many: a percentile, or the maximum where that is zero."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError

PERCENTILE = 99.5


def percentile_or_maximum(values: NDArray[Any], percentile: float = PERCENTILE) -> float:
    """Return the percentile of non-negative values of any shape, their maximum where that is 0.

    Raises:
        BcosError: a percentile outside [0, 100].
    """
    _check(percentile)
    return float(np.percentile(values, percentile)) or float(values.max())


def percentile_of_many(arrays: Iterable[NDArray[Any]], count: int, percentile: float = PERCENTILE) -> float:
    """Return :func:`percentile_or_maximum` of all values of all arrays, which need not be in memory together.

    The result is exactly what ``numpy.percentile`` gives for the joined arrays; only the values above the
    percentile are held in memory.

    Args:
        arrays: arrays of any shapes.
        count: total number of their values.
        percentile: in [0, 100].

    Raises:
        BcosError: no values, another number of them than `count`, or a percentile outside [0, 100].
    """
    _check(percentile)
    position = percentile / 100 * (count - 1)
    keep = count - math.floor(position)
    largest: NDArray[np.float64] = np.empty(0)
    total = 0
    for array in arrays:
        total += array.size
        joined = np.concatenate([largest, np.asarray(array, np.float64).ravel()])
        largest = np.partition(joined, len(joined) - keep)[-keep:] if len(joined) > keep else joined
    if total != count or count == 0:
        raise BcosError(f"the arrays hold {total} values, not {count}; the count must be theirs, and positive")
    largest.sort()
    above = largest[min(1, keep - 1)]
    return float(largest[0] + (above - largest[0]) * (position - math.floor(position))) or float(largest[-1])


def _check(percentile: float) -> None:
    if not 0 <= percentile <= 100:
        raise BcosError(f"percentile must be in [0, 100], got {percentile}")
