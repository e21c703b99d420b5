"""Functions that are linear in each of several arguments: matrix products, convolutions, quotients."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bcos_core.additive_terms import shift
from bcos_core.dependence import depends, map_tensors, tensors
from bcos_core.functional import check_channels, check_features
from bcos_core.rules.activations import frozen
from bcos_core.rules.additions import reshaped
from bcos_core.rules.selection import selected
from bcos_core.rules.table import Function, rule
from bcos_core.tape import as_factor, current_tape


@rule(
    *("mul", "multiply", "__mul__", "__rmul__", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot"),
    *("vdot", "inner", "outer", "ger", "kron", "einsum", "tensordot", "chain_matmul", "multi_dot", "cross", "vecdot"),
)
def product(func: Function, *args: Any, **kwargs: Any) -> Tensor:
    """A product of n factors that depend on the input: each is given one nth of it, the others being frozen.

    For two: ``a · b = ½ (a · sg(b) + sg(a) · b)``.
    """
    factors = [t for t in tensors([args, kwargs]) if depends(t)]
    tape = current_tape()
    if tape is not None and len(factors) > 1:
        recorded = [tape.hold(factor.detach()) for factor in factors]
        if tape.is_replaying:
            return _mean_of_products(func, args, kwargs, factors, recorded)
    y: Tensor = func(*args, **kwargs)
    if len(factors) > 1 and y.requires_grad:
        # Autograd of a product of n factors gives n times the value. A hook on the result divides what flows into
        # every factor, where ½(a·sg(b) + sg(a)·b), written out, would multiply n times in the forward pass.
        y.register_hook(lambda gradient: gradient / len(factors))
    return y


def _mean_of_products(func: Function, args: Any, kwargs: Any, factors: list[Tensor], recorded: list[Tensor]) -> Tensor:
    """``1/n Σᵢ`` of the product in which all factors but the i-th are recorded ones."""

    def multiply(given: Iterator[Tensor]) -> Tensor:
        mixed = [map_tensors(lambda t: next(given) if depends(t) else t, part) for part in (list(args), kwargs)]
        return func(*mixed[0], **mixed[1])  # type: ignore[no-any-return] # reason: func is any callable

    parts = [multiply(iter([*recorded[:i], factor, *recorded[i + 1 :]])) for i, factor in enumerate(factors)]
    return torch.stack(parts).mean(0)


@rule("div", "divide", "true_divide", "__div__", "__truediv__")
def quotient(func: Function, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """``input / other`` with a frozen denominator."""
    if rounding_mode is not None or not depends(input):
        return frozen(func, input, other, **({"rounding_mode": rounding_mode} if rounding_mode else {}))
    return func(input, as_factor(other))


@rule("linear")
def linear(func: Function, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``W x + bias``; features that do not fit are refused as by B-cos layers."""
    check_features("linear", input, weight)
    y = product(func, input, weight)
    return y if bias is None else shift(y, bias)


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(
    func: Function, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """``W * x + bias``; channels that do not fit are refused as by B-cos layers."""
    check_channels(func.__name__, weight.ndim - 2, input, _input_channels(func, weight, *args, **kwargs))
    y = product(func, input, weight, None, *args, **kwargs)
    return y if bias is None else shift(y, reshaped(bias, (-1, *[1] * (weight.ndim - 2))))


def _input_channels(func: Function, weight: Tensor, *args: Any, groups: int | None = None, **_: Any) -> int:
    """Channels that a convolution takes; in PyTorch, `groups` comes fourth after the bias."""
    if "transpose" in func.__name__:
        return weight.shape[0]
    return weight.shape[1] * (groups or (args[3] if len(args) > 3 else 1))


@rule("bilinear")
def bilinear(func: Function, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``xᵀ W y + bias``."""
    y = product(func, input1, input2, weight)
    return y if bias is None else shift(y, bias)


@rule("grid_sample")
def grid_sample(func: Function, input: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Interpolation between elements; where, is frozen."""
    if not depends(input):
        return frozen(func, input, grid, *args, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable
    return func(input, as_factor(grid), *args, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable


@rule("prelu")
def prelu(func: Function, input: Tensor, weight: Tensor) -> Tensor:
    """``max(0, x) + weight · min(0, x)``, linear in x on either side of 0."""
    return selected(func, input, as_factor(weight))  # type: ignore[no-any-return] # reason: func is any callable
