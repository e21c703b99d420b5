"""Functions that are linear in several arguments at once: constants beside the input are measured."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bcos_core.additive_terms import UNNAMED, current_terms, name_as, named_like, shift
from bcos_core.dependence import depends, is_constant, map_tensors, mark_dependent, tensors
from bcos_core.errors import BcosError
from bcos_core.rules.selection import selected
from bcos_core.rules.table import Function, composition, count_dependent, measure_base, method, overwrite, rule


@rule("add", "sub", "subtract", "rsub", "__rsub__", "__radd__")
def addition(func: Function, input: Any, other: Any, **kwargs: Any) -> Any:
    """``input ± other``: if one of them is a constant, what it contributes is measured."""
    if depends(input) and not depends(other):
        other = measured_beside(input, other)
    elif depends(other) and not depends(input):
        input = measured_beside(other, input)
    return func(input, other, **kwargs)


@rule(
    *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "block_diag"),
    *("diff", "complex", "slice_scatter", "select_scatter", "diagonal_scatter"),
)
def side_by_side(func: Function, *args: Any, **kwargs: Any) -> Any:
    """Constants beside tensors that depend on the input, such as a class token, are measured."""
    return _with_constants_measured(func, args, kwargs, lambda value: not depends(value))


@rule("scatter_add", "index_add", "index_copy", "index_put", "masked_scatter")
def written_at_indices(func: Function, *args: Any, **kwargs: Any) -> Any:
    """Constants that are written into what depends on the input, or are written into, are measured."""
    return _with_constants_measured(func, args, kwargs, is_constant)


def _with_constants_measured(
    func: Function, args: Any, kwargs: Any, is_value: Callable[[Tensor], bool], *, broadcast: bool = False
) -> Any:
    beside = next(t for t in tensors([args, kwargs]) if depends(t))

    def measure(value: Tensor) -> Any:
        return measured_beside(beside, value, broadcast=broadcast) if is_value(value) else value

    return func(*map_tensors(measure, list(args)), **map_tensors(measure, kwargs))


@rule("maximum", "minimum", "max", "min", "fmax", "fmin")
def largest(func: Function, *args: Any, **kwargs: Any) -> Any:
    """Constants that are chosen where they are larger (or smaller) are measured."""
    return _with_constants_measured(partial(selected, func), args, kwargs, lambda v: not depends(v), broadcast=True)


@rule("scatter", "index_fill")
def scatter(func: Function, input: Tensor, dim: int, index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Numbers that are written are measured, as tensors."""
    if "reduce" in kwargs:
        raise BcosError(
            "cannot explain: scatter with reduce= is not followed; use scatter_add, or multiply by a tensor of factors"
        )
    values = [*args, *kwargs.values()]
    if not values or not isinstance(values[0], int | float):
        return written_at_indices(func, input, dim, index, *args, **kwargs)  # type: ignore[no-any-return] # reason: rules are any callables
    filled = input.detach().new_tensor(values[0])
    if func.__name__.startswith("scatter"):
        filled = filled.expand(index.shape)
    return written_at_indices(func, input, dim, index, filled)  # type: ignore[no-any-return] # reason: rules are any callables


@rule("where")
def where(func: Function, *args: Any, **kwargs: Any) -> Any:
    """Constants that are chosen instead of what depends on the input are measured."""
    names = ("input", "condition", "other") if func is torch.Tensor.where else ("condition", "input", "other")
    given = dict(zip(names, args, strict=False)) | kwargs
    if len(given) == 1:
        return func(*args, **kwargs)  # indices
    return select(given["condition"], given.get("input", given.get("self")), given["other"])


def select(condition: Tensor, input: Any, other: Any) -> Tensor:
    """``torch.where``, measuring constants."""
    if not depends(input):
        input = measured_beside(other, input)
    elif not depends(other):
        other = measured_beside(input, other)
    return torch.where(condition, input, other)


@composition("masked_fill")
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``value`` where the mask is true."""
    return torch.where(mask, torch.as_tensor(value, dtype=input.dtype, device=input.device), input)


@rule("pad")
def pad(func: Function, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad with zeros, and add what is not zero."""
    if mode != "constant" or not value:
        return func(input, pad, mode)
    one = input if len(pad) == 2 * input.ndim else input[:1]  # the same for every sample, unless they are padded
    border = func(torch.zeros_like(one), pad, mode, value)
    return shift(func(input, pad), border)


@method("copy_")
def _copy(func: Function, destination: Tensor, source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Copy `source` into `destination`; if it is a constant, measured."""
    if depends(source):
        measure_base(destination, source)
        mark_dependent(destination)
    elif is_constant(source) and depends(destination):
        source = measured_beside(destination, source)
    return func(destination, source, *args, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable


@method("__setitem__")
def _assign(func: Function, destination: Tensor, index: Any, value: Any) -> None:
    """``destination[index] = value``: a constant beside the input, whichever of the two it is, is measured."""
    if depends(destination) and not depends(value):
        place = destination.detach()[index]
        constant = torch.as_tensor(value, dtype=place.dtype, device=place.device)
        while constant.ndim > place.ndim and constant.shape[0] == 1:  # PyTorch drops these too
            constant = constant[0]
        constant = constant.expand(place.shape)
        value = measured_beside(destination, named_like(value, constant), broadcast=False)
    elif not depends(destination):
        if bool(destination.any()):
            overwrite(destination, measured_beside(value, destination.clone(), broadcast=False))
        mark_dependent(destination)
    func(destination, index, value)


@method("fill_", "zero_", "normal_", "uniform_")
def _fill(func: Function, destination: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What is filled with a constant does not depend on the input any longer."""
    if count_dependent(args, kwargs):  # filled with what depends on the input
        return overwrite(destination, tensors([args, kwargs])[0].expand_as(destination))
    with torch.no_grad():
        filled = name_as(func(destination.detach().clone(), *args, **kwargs), UNNAMED)
    return overwrite(destination, filled)


@composition("addmm", "baddbmm", "addmv", "addr", "sspaddmm")
def matrix_addition(input: Tensor, *factors: Tensor, beta: float = 1, alpha: float = 1, **named: Tensor) -> Tensor:
    """``beta · input + alpha · first @ second``; each function has names of its own for the factors."""
    first, second = (*factors, *named.values())
    product = torch.outer(first, second) if first.ndim == 1 else first @ second
    return _weighted_sum(input, product, beta, alpha)


@composition("addbmm")
def matrix_addition_over_a_batch(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """``beta · input + alpha · Σ batch1 @ batch2``."""
    return _weighted_sum(input, (batch1 @ batch2).sum(0), beta, alpha)


def _weighted_sum(constant: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    product = product if alpha == 1 else alpha * product
    if beta == 0:  # whatever the other is, NaN too
        return product
    return (constant if beta == 1 else beta * constant) + product


@composition("broadcast_tensors")
def broadcast_tensors(*given: Any) -> tuple[Tensor, ...]:
    """Each expanded by itself: what is a constant stays one."""
    expanded = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    shape = torch.broadcast_shapes(*(t.shape for t in expanded))
    return tuple(t.expand(shape) for t in expanded)


@composition("addcmul")
def add_product(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """``input + value · tensor1 · tensor2``."""
    return input + value * (tensor1 * tensor2)


@composition("addcdiv")
def add_quotient(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """``input + value · tensor1 / tensor2``."""
    return input + value * (tensor1 / tensor2)


@composition("lerp")
def interpolation(input: Tensor, end: Tensor, weight: Any) -> Any:
    """``input + weight · (end - input)``."""
    return input + weight * (end - input)


@composition("log_softmax")
def log_softmax(
    input: Tensor, dim: int | None = None, *more: Any, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    """``x - log Σ exp x``, the sum frozen."""
    dtype = next((value for value in more if isinstance(value, torch.dtype)), dtype)
    input = input if dtype is None else input.to(dtype)
    if dim is None:  # PyTorch's choice
        dim = 0 if input.ndim in (0, 1, 3) else 1
    return input - torch.logsumexp(input, dim, keepdim=True)


def measured_beside(beside: Tensor, constant: Any, *, broadcast: bool = True) -> Any:
    """Stand-in for `constant`, through which it is measured, beside (and broadcast with) what depends on the input."""
    terms = current_terms()
    is_zero = not isinstance(constant, Tensor) and constant == 0
    return constant if terms is None or is_zero else terms.leaf(constant, beside, broadcast=broadcast)


def reshaped(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    """View a constant in another shape, with its name, which is not passed on inside of rules."""
    view: Tensor = named_like(parameter, parameter.reshape(shape))
    return view
