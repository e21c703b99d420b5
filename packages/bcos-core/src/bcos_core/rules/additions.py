"""Functions that are linear in several arguments at once: constants beside the input are measured."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bcos_core.additive import current_terms, name_as, name_of, shift
from bcos_core.dependence import depends, is_constant, tensors
from bcos_core.rules.table import Function, composition, method, overwrite, rule


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
    *("broadcast_tensors", "maximum", "minimum", "max", "min", "fmax", "fmin"),
    *("scatter", "scatter_add", "index_add", "index_copy", "index_put", "masked_scatter", "slice_scatter"),
    *("select_scatter", "diagonal_scatter", "scatter_reduce", "index_fill"),
)
def jointly_linear(func: Function, *args: Any, **kwargs: Any) -> Any:
    """Constants beside tensors that depend on the input, such as a class token, are measured."""
    beside = next(t for t in tensors([args, kwargs]) if depends(t))
    return func(*_all_measured(beside, list(args)), **_all_measured(beside, kwargs))


def _all_measured(beside: Tensor, values: Any) -> Any:
    if isinstance(values, Tensor):
        return measured_beside(beside, values) if is_constant(values) else values
    if isinstance(values, list | tuple):
        measured = [_all_measured(beside, value) for value in values]
        return type(values)(measured)
    if isinstance(values, dict):
        return {name: _all_measured(beside, value) for name, value in values.items()}
    return values


@rule("where")
def where(func: Function, condition: Tensor, input: Any, other: Any) -> Tensor:
    """Constants that are chosen instead of what depends on the input are measured."""
    del func
    return select(condition, input, other)


def select(condition: Tensor, input: Any, other: Any) -> Tensor:
    """``torch.where``, measuring constants."""
    beside = input if depends(input) else other
    if is_constant(input):
        input = measured_beside(beside, input)
    if is_constant(other):
        other = measured_beside(beside, other)
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
    border = func(torch.zeros_like(input[:1]), pad, mode, value)
    return shift(func(input, pad), border)


@method("copy_")
def _copy(func: Function, destination: Tensor, source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Copy `source` into `destination`; if it is a constant, measured."""
    source = measured_beside(destination, source) if is_constant(source) and depends(destination) else source
    return func(destination, source, *args, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable


@method("__setitem__")
def _assign(func: Function, destination: Tensor, index: Any, value: Any) -> None:
    """``destination[index] = value``: a constant beside the input, whichever of the two it is, is measured."""
    if is_constant(value) and depends(destination):
        value = measured_beside(destination, value)
    elif not depends(destination) and bool(destination.any()):
        overwrite(destination, measured_beside(value, destination.clone()))
    func(destination, index, value)


@method("fill_", "zero_", "normal_", "uniform_")
def _fill(func: Function, destination: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What is filled with a constant does not depend on the input any longer."""
    with torch.no_grad():
        func(destination, *args, **kwargs)
    return destination.detach_()


@composition("addmm", "addbmm", "baddbmm", "addmv", "addr", "sspaddmm")
def matrix_addition(input: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta · input + alpha · first @ second``."""
    product = torch.outer(first, second) if first.ndim == 1 else first @ second
    if input.ndim == 2 and product.ndim == 3:  # addbmm adds the products of a batch up
        product = product.sum(0)
    constant = input if beta == 1 else beta * input
    return constant + (product if alpha == 1 else alpha * product)


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
def log_softmax(input: Tensor, dim: int | None = None, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
    """``x - log Σ exp x``, the sum frozen."""
    input = input if dtype is None else input.to(dtype)
    return input - torch.logsumexp(input, -1 if dim is None else dim, keepdim=True)


def measured_beside(beside: Tensor, constant: Any) -> Any:
    """Stand-in for `constant`, beside a tensor that depends on the input, through which it is measured."""
    terms = current_terms()
    is_zero = not isinstance(constant, Tensor) and constant == 0
    return constant if terms is None or is_zero else terms.leaf(constant, beside)


def reshaped(parameter: Tensor, shape: tuple[int, ...], name: str | None = None) -> Tensor:
    """View a constant in another shape, with its name: rules run outside of what passes names on."""
    name = name or name_of(parameter)
    view = parameter.reshape(shape)
    return view if name is None else name_as(view, name)


def named_multiple(factor: float, constant: Tensor) -> Tensor:
    """``factor · constant``, with its name."""
    name = name_of(constant)
    return constant if factor == 1 else factor * constant if name is None else name_as(factor * constant, name)
