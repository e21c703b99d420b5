"""Checks of the arguments that networks are built with. Imports no torch."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

from bcos_core.errors import BcosError


def is_number(value: object) -> bool:
    """Whether a value is a real number, of Python or NumPy."""
    return isinstance(value, Real)


def is_size(value: object) -> bool:
    """Whether a value is a positive integer, of Python or NumPy."""
    return isinstance(value, Integral) and int(value) >= 1


def is_range(value: object) -> bool:
    """Whether a value is two finite numbers that differ: black and white."""
    if not (isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))):
        return False
    return all(map(math.isfinite, value)) and bool(value[0] != value[1])


def depth_rates(last: float, blocks: int) -> list[float]:
    """Return the stochastic depth of each block, growing linearly from 0 at the first to `last`, in [0, 1)."""
    if not is_number(last) or not 0 <= last < 1:
        raise BcosError(f"drop_path must be in [0, 1), got {last!r}")
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def check_sizes(**sizes: int) -> None:
    """Refuse sizes that are not positive integers, naming all of them."""
    if not all(is_size(size) for size in sizes.values()):
        names, values = list(sizes), [repr(v) for v in sizes.values()]
        listed = [", ".join(part[:-1]) + " and " + part[-1] if len(part) > 1 else part[0] for part in (names, values)]
        raise BcosError(f"{listed[0]} must be at least 1, got {listed[1]}")


def check_depths(depths: tuple[int, ...]) -> None:
    """Refuse an empty network or stage."""
    if not depths or min(depths) < 1:
        raise BcosError(f"depths must name at least one block for every stage, got {depths}")
