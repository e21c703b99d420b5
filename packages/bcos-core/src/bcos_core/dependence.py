"""Which tensors of a forward pass depend on the input, and which are constants beside it."""

from collections.abc import Callable
from operator import is_
from typing import Any

from torch import Tensor, nn

_CONSTANT = "_bcos_constant"
NESTED = (list, tuple, dict)
_HOLDING = (Tensor, *NESTED)
"""Types of what may hold tensors. These functions are called for every operation: a union would be made each time."""


def depends(value: object) -> bool:
    """Whether `value` is a tensor that carries the input's gradient.

    Parameters do not, nor what was computed from parameters alone.
    """
    return (
        isinstance(value, Tensor)
        and value.requires_grad
        and (value.is_floating_point() or value.is_complex())
        and (type(value) is Tensor or not isinstance(value, nn.Parameter))  # the latter asks Python code
        and not getattr(value, _CONSTANT, False)
    )


def is_constant(value: object) -> bool:
    """Whether `value` is a number, or a tensor of numbers, that does not depend on the input."""
    if isinstance(value, Tensor):
        return (value.is_floating_point() or value.is_complex()) and not depends(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def tensors(values: Any) -> list[Tensor]:
    """All tensors in `values`, which may be nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, NESTED):
        return []
    found: list[Tensor] = []
    for value in values:  # called for every operation: most arguments are not containers
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, NESTED):
            found += tensors(value)
    return found


def map_tensors(function: Callable[[Tensor], Any], values: Any) -> Any:
    """`values`, which may be nested lists, tuples and dictionaries, with the function applied to each tensor."""
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, (list, tuple)):
        mapped = [
            function(value)
            if isinstance(value, Tensor)
            else map_tensors(function, value)
            if isinstance(value, NESTED)
            else value
            for value in values
        ]
        if all(map(is_, mapped, values)):
            return values
        named = getattr(values, "_make", None)  # of named tuples
        return type(values)(mapped) if named is None else named(mapped)
    if isinstance(values, dict):
        return {name: map_tensors(function, v) if isinstance(v, _HOLDING) else v for name, v in values.items()}
    return values


def mark_dependent(tensor: Tensor) -> None:
    """Note that the input has been written into a tensor that was a constant before."""
    if hasattr(tensor, _CONSTANT):
        delattr(tensor, _CONSTANT)


def mark_constant(result: Any) -> None:
    """Note that a result was computed from constants alone, though it requires a gradient."""
    for tensor in tensors(result):
        if tensor.requires_grad:
            setattr(tensor, _CONSTANT, True)
