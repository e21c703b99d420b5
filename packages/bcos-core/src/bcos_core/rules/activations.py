"""Activations and gates: ``x`` times a frozen gate, or frozen altogether."""

from typing import Any

import torch
from torch import Tensor

from bcos_core.additive_terms import FROZEN, name_as, shift
from bcos_core.dependence import depends
from bcos_core.rules.additions import select
from bcos_core.rules.table import Function, composition, count_dependent, overwrite, rule, split_inplace
from bcos_core.tape import held, is_replaying


@rule(
    *("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "relu6", "hardtanh", "softsign"),
    *("tanhshrink", "softshrink", "tanh", "erf", "expm1", "log1p", "sin", "sinh", "atan", "arctan", "asinh", "square"),
)
def activation(func: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``f(x) = x · (f(x)/x)`` with a frozen gate ``f(x)/x``, for functions with ``f(0) = 0``."""
    inplace, args, kwargs = split_inplace(func, args, kwargs)
    y: Tensor = func(input.detach(), *args, **kwargs)
    at_zero = func(input.new_zeros(()), *args, **kwargs)  # of hardtanh between 1 and 2 it is 1
    result = _gated(input, y) if not at_zero.any() else _with_offset(func, input, y, args, kwargs)
    return overwrite(input, result) if inplace else result


@rule("softplus", "logsigmoid", "threshold", "clamp", "clip", "clamp_min", "clamp_max")
def activation_with_offset(func: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``f(x) = x · (f(x) - f(0))/x + f(0)``, the ratio frozen and ``f(0)`` an additive constant."""
    inplace, args, kwargs = split_inplace(func, args, kwargs)
    if not depends(input) or count_dependent(args, kwargs):
        return _between(func, input, *args, **kwargs)
    result = _with_offset(func, input, func(input.detach(), *args, **kwargs), args, kwargs)
    return overwrite(input, result) if inplace else result


def _gated(x: Tensor, y: Tensor) -> Tensor:
    """Return the constant `y` as ``x · (y/x)`` with a frozen gate ``y/x``, which is 0 where x is 0 or infinite.

    Infinite values are constants, such as those of masks; what becomes of them is one too.
    """
    values = x.detach()
    infinite = values.isinf()
    if bool(infinite.any()):
        return shift(_gated(x.masked_fill(infinite, 0), torch.where(infinite, 0, y)), torch.where(infinite, y, 0))
    result = x * held(torch.where(values == 0, 0, y / values))
    if not is_replaying():
        with torch.no_grad():
            result.copy_(y)  # the product rounds: 6.9999995 would be below a limit of 7
    return result


def _with_offset(func: Function, input: Tensor, y: Tensor, args: Any, kwargs: Any) -> Tensor:
    offset = func(torch.zeros_like(input), *args, **kwargs)
    return shift(_gated(input, y - offset), offset) if offset.any() else _gated(input, y)


def _between(func: Function, input: Tensor, *bounds: Any, **named_bounds: Any) -> Tensor:
    """Bounds that depend on the input are selected as the input is."""
    bounds_of = {"clamp_min": ("min",), "clamp_max": ("max",)}.get(func.__name__, ("min", "max"))
    given = dict(zip(bounds_of, bounds, strict=False)) | named_bounds
    result = input
    if (low := given.get("min")) is not None:
        result = select(held(result >= low), result, low)
    if (high := given.get("max")) is not None:
        result = select(held(result <= high), result, high)
    return result


@composition("glu")
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """``a · sigmoid(b)`` for the halves of the input."""
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


@rule("pow", "__pow__", "float_power")
def power(func: Function, input: Any, exponent: Any) -> Any:
    """``x^p = x · x^(p-1)`` with a frozen ``x^(p-1)`` for p > 0; square roots and negative powers are frozen."""
    if depends(exponent) or not depends(input):
        return frozen(func, input, exponent)
    powers = torch.as_tensor(exponent)
    if bool((powers > 0).all()) and not bool((powers == 0.5).any()):
        return _gated(input, func(input.detach(), exponent))
    return frozen(func, input, exponent)


@rule(
    *("softmax", "softmin", "sigmoid", "hardsigmoid", "expit", "exp", "exp2", "log", "log2", "log10", "cos", "cosh"),
    *("sqrt", "rsqrt", "reciprocal", "logsumexp", "std", "var", "norm", "vector_norm", "matrix_norm", "cdist"),
    *("sign", "sgn", "floor", "ceil", "round", "trunc", "frac", "floor_divide", "heaviside", "gumbel_softmax"),
    *("__rpow__", "__rtruediv__", "__rdiv__", "__floordiv__", "__rfloordiv__", "pairwise_distance", "dist", "erfc"),
)
def frozen(func: Function, *args: Any, **kwargs: Any) -> Any:
    """``f(x)`` is a gate or a statistic, and held constant."""
    inplace, args, kwargs = split_inplace(func, args, kwargs)
    with torch.no_grad():
        result = func(*args, **kwargs)
    if isinstance(result, Tensor):
        name_as(result, f"{func.__name__.strip('_')}{FROZEN}")
    return overwrite(args[0], result) if inplace else result


@rule("var_mean", "std_mean")
def frozen_with_mean(func: Function, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The variance is held constant, the mean is linear."""
    spread, mean = func(*args, **kwargs)
    return name_as(spread.detach(), f"{func.__name__}{FROZEN}"), mean
