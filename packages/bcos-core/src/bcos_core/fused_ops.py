"""The hot steps of training with hand-written derivatives, which take half of autograd's passes over memory.

Values and derivatives are those of the plain expressions in :mod:`bcos_core.functional` and
:mod:`bcos_core.norms`; second derivatives too. Under ``torch.compile`` the plain expressions are used, which
the compiler fuses itself.

A norm behind a B-cos transform does not keep its input: the transform keeps the linear map and the norm of its input,
which give it again in the backward pass.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from bcos_core.functorch import is_transformed
from bcos_core.precision import is_half, widened

COS_EPS = 1e-6
"""Added to |cos| before a power other than 1, whose derivative at 0 may be infinite."""


def is_fusible(x: Tensor, wide: Tensor) -> bool:
    """Whether a gradient is recorded of what :func:`is_eager` says, by autograd and no transform of torch.func."""
    recorded = torch.is_grad_enabled() and (x.requires_grad or wide.requires_grad)
    return recorded and is_eager(x, wide) and not is_transformed()


def is_eager(x: Tensor, wide: Tensor) -> bool:
    """Whether `x` is computed with eagerly, beside a tensor in its own full precision, or in float32 for a half."""
    full = torch.float32 if is_half(x) else x.dtype
    return full in (torch.float32, torch.float64) and wide.dtype == full and not torch.compiler.is_compiling()


def scale_by_cosine(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """``(|linear| / norm + ε)^(b-1) · linear``, with `norm` broadcast over channels.

    ε is :data:`COS_EPS`, but for B = 2, where the power is none and ε is 0. In the precision of `norm`, rounded at the
    end to that of `linear`.
    """
    recorded = torch.is_grad_enabled() and (linear.requires_grad or norm.requires_grad)
    result: Tensor = (_ScaleByCosine.apply if recorded else _ScaleByCosine.forward)(linear, norm, float(b))
    return result


def cosine_factor(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """``(|linear| / norm + ε)^(b-1)``, a tensor of its own in the precision of `norm`; for what records no gradient."""
    cosine = _magnitude(linear).div_(norm)
    return cosine if b == 2 else cosine.add_(COS_EPS).pow_(b - 1)


def sum_of_squares(x: Tensor, dim: int) -> Tensor:
    """``Σ x²`` over a dimension, in float32 for half precisions; autograd keeps no tensor of squares."""
    recorded = torch.is_grad_enabled() and x.requires_grad
    result: Tensor = (_SumOfSquares.apply if recorded else _SumOfSquares.forward)(x, dim)
    return result


def box_sum(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Sum over every window of a map (N, C, *spatial) of few channels on a CPU, dimension by dimension.

    PyTorch's pooling and convolution of a single channel are not vectorised there: they take two to seven times as
    long.
    """
    recorded = torch.is_grad_enabled() and x.requires_grad
    result: Tensor = (_BoxSum.apply if recorded else _BoxSum.forward)(x, tuple(kernel), tuple(stride))
    return result


def window_sum(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Sum over every window of a map (N, C, *spatial) of many channels; autograd keeps nothing of it."""
    recorded = torch.is_grad_enabled() and x.requires_grad
    result: Tensor = (_WindowSum.apply if recorded else window_sum_formula)(x, kernel, stride, dilation)
    return result


def window_sum_formula(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """The same as a convolution of each channel with a kernel of ones."""
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    channels = x.shape[1]
    return conv(x, x.new_ones((channels, 1, *kernel)), None, tuple(stride), 0, tuple(dilation), channels)


def has_batch_statistics(x: Tensor) -> bool:
    """Whether PyTorch computes the statistics of a batch by themselves where `x` is."""
    return x.device.type in ("cpu", "cuda")


def divide_by_batch_std(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x / sqrt(var + eps) · weight`` with the biased variance of each channel of the batch.

    Beside it, these variances (C,), detached.
    """
    y, _, var = _DivideByBatchStd.apply(x, *_source(x), weight, eps)
    return y, var


def divide_by_std_of(x: Tensor, weight: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """``x / sqrt(var + eps) · weight`` with the biased variance over `dims`; `weight` broadcasts to `x`."""
    y, _, _ = _DivideByStd.apply(x, *_source(x), dims, weight, eps)
    return y  # type: ignore[no-any-return]


class _ScaleByCosine(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(linear: Tensor, norm: Tensor, b: float) -> Tensor:
        return cosine_factor(linear, norm, b).mul_(linear).to(linear.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        linear, norm, ctx.b = inputs
        ctx.save_for_backward(linear, norm)
        ctx.save_for_forward(linear, norm)
        ctx.inputs = weakref.ref(linear), weakref.ref(norm)  # for _source: what is saved may be packed by hooks
        ctx.version = output._version

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        linear, norm = ctx.saved_tensors
        b, needs_norm = ctx.b, ctx.needs_input_grad[1]
        if torch.is_grad_enabled():  # create_graph=True: nothing in place
            factor, slope = _ScaleByCosine._factors(linear, norm, b)
            scaled = slope * gradient
            to_norm = -((scaled * linear).sum_to_size(norm.shape) / norm) if needs_norm else None
            return (scaled + factor * gradient).to(linear.dtype), to_norm, None
        slope = _magnitude(linear).div_(norm)
        if b == 2:
            scaled = slope.mul_(gradient)
            to_norm = -((scaled * linear).sum_to_size(norm.shape) / norm) if needs_norm else None
            return scaled.mul_(2).to(linear.dtype), to_norm, None
        power = (slope + COS_EPS).pow_(b - 2)
        slope.mul_(power).mul_(b - 1)
        to_linear = power.mul_(COS_EPS).add_(slope, alpha=b / (b - 1)).mul_(gradient)  # factor + slope
        to_norm = -(slope.mul_(gradient).mul_(linear).sum_to_size(norm.shape) / norm) if needs_norm else None
        return to_linear.to(linear.dtype), to_norm, None

    @staticmethod
    def jvp(ctx: Any, d_linear: Tensor, d_norm: Tensor, _b: None) -> Tensor:
        linear, norm = ctx.saved_tensors
        factor, slope = _ScaleByCosine._factors(linear, norm, ctx.b)
        derivative: Tensor = factor * d_linear + slope * (d_linear - linear * d_norm / norm)
        return derivative.to(linear.dtype)

    @staticmethod
    def _factors(linear: Tensor, norm: Tensor, b: float) -> tuple[Tensor, Tensor]:
        """``f = (c + ε)^(b-1)`` and ``c · ∂f/∂c`` at ``c = |linear| / norm``."""
        cosine = widened(linear).abs() / norm
        if b == 2:
            return cosine, cosine
        shifted = cosine + COS_EPS
        power = shifted.pow(b - 2)
        return shifted * power, (b - 1) * cosine * power


class _SumOfSquares(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        if x.stride(dim) != 1:  # along another dimension than that of memory, norms take up to fifty times as long
            return widened(x).square().sum(dim)
        norm: Tensor = torch.linalg.vector_norm(x, dim=dim, dtype=torch.float32 if is_half(x) else None)
        return norm.square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], _output: Tensor) -> None:
        x, ctx.dim = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return (x * (2 * gradient).unsqueeze(ctx.dim)).to(x.dtype), None

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor, _dim: None) -> Tensor:
        (x,) = ctx.saved_tensors
        derivative: Tensor = 2 * (widened(x) * d_x).sum(ctx.dim)
        return derivative


class _BoxSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        for dim, (size, step) in enumerate(zip(kernel, stride, strict=True), start=x.ndim - len(kernel)):
            length = x.shape[dim] - size + 1
            parts = [_every(x.narrow(dim, i, length), dim, step) for i in range(size)]
            total = parts[0].clone() if size == 1 else parts[0] + parts[1]
            for part in parts[2:]:
                total.add_(part)
            x = total
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any, Any], _output: Tensor) -> None:
        x, ctx.kernel, ctx.stride = inputs
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _BoxSpread.apply(gradient, ctx.shape, ctx.kernel, ctx.stride), None, None

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor, _kernel: None, _stride: None) -> Tensor:
        return _BoxSum.forward(d_x, ctx.kernel, ctx.stride)


class _BoxSpread(torch.autograd.Function):
    """The derivative of a box sum: each value goes to all of its window."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, shape: torch.Size, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        for dim, (size, step) in reversed(
            list(enumerate(zip(kernel, stride, strict=True), start=len(shape) - len(kernel)))
        ):
            spread = y.new_zeros((*y.shape[:dim], shape[dim], *y.shape[dim + 1 :]))
            for i in range(size):
                _every(spread.narrow(dim, i, shape[dim] - size + 1), dim, step).add_(y)
            y = spread
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.Size, Any, Any], _output: Tensor) -> None:
        _, ctx.shape, ctx.kernel, ctx.stride = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _BoxSum.apply(gradient, ctx.kernel, ctx.stride), None, None, None

    @staticmethod
    def jvp(ctx: Any, d_y: Tensor, _shape: None, _kernel: None, _stride: None) -> Tensor:
        return _BoxSpread.forward(d_y, ctx.shape, ctx.kernel, ctx.stride)


class _WindowSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
        return window_sum_formula(x, kernel, stride, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any, Any, Any], _output: Tensor) -> None:
        x, *ctx.windows = inputs
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _WindowSpread.apply(gradient, ctx.shape, *ctx.windows), None, None, None

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor, *_: None) -> Tensor:
        return window_sum_formula(d_x, *ctx.windows)


class _WindowSpread(torch.autograd.Function):
    """The derivative of a window sum."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        y: Tensor, shape: torch.Size, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
    ) -> Tensor:
        spread = (conv1d_input, conv2d_input, conv3d_input)[len(kernel) - 1]
        channels = shape[1]
        ones = y.new_ones((channels, 1, *kernel))
        placed = {"stride": tuple(stride), "dilation": tuple(dilation), "groups": channels}
        result: Tensor = spread(shape, ones, y, **placed)  # type: ignore[no-untyped-call]
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        _, ctx.shape, *ctx.windows = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _WindowSum.apply(gradient, *ctx.windows), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, d_y: Tensor, *_: None) -> Tensor:
        return _WindowSpread.forward(d_y, ctx.shape, *ctx.windows)


def _every(x: Tensor, dim: int, step: int) -> Tensor:
    """Every so many rows of a dimension, from the first."""
    return x[(slice(None),) * dim + (slice(None, None, step),)] if step > 1 else x


class _DivideByBatchStd(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, _linear: Any, _norm: Any, _b: Any, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = torch.ops.aten.batch_norm_update_stats(x, *_full_statistics(x), 0.0)
        return (x * _along_channels((var + eps).rsqrt() * weight, x)).to(x.dtype), mean, var

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *source, weight, ctx.eps = inputs
        _save(ctx, source, weight, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = _saved(ctx)
        if torch.is_grad_enabled():  # create_graph=True: the same derivative, differentiable itself
            y = _plain(x, (0, *range(2, x.ndim)), _along_channels(weight, x), ctx.eps)
            to_x, to_weight = _gradients(y, x, weight, gradient)
            return to_x, None, None, None, to_weight, None
        invstd = (var + ctx.eps).rsqrt()
        # Of batch norm's own derivative only the sums are wanted: of gradient · (x - mean) · invstd, and of gradient
        _, centred, added = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, *_full_statistics(x), mean, invstd, True, ctx.eps, [False, True, True]
        )
        along = centred / invstd + mean * added  # ∂L/∂(invstd · weight) = Σ gradient · x
        to_std = -(invstd**3) * weight * along / (x.numel() // x.shape[1])
        to_x = torch.addcmul(_along_channels(-mean * to_std, x), x, _along_channels(to_std, x))
        to_x.addcmul_(gradient, _along_channels(invstd * weight, x))
        return to_x.to(x.dtype), None, None, None, along * invstd, None


class _DivideByStd(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, _linear: Any, _norm: Any, _b: Any, dims: tuple[int, ...], weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(widened(x), dim=dims, correction=0, keepdim=True)
        return (x * (var + eps).rsqrt()).mul_(weight).to(x.dtype), mean, var

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *source, ctx.dims, weight, ctx.eps = inputs
        _save(ctx, source, weight, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = _saved(ctx)
        if torch.is_grad_enabled():
            y = _plain(x, ctx.dims, weight, ctx.eps)
            to_x, to_weight = _gradients(y, x, weight, gradient)
            return to_x, None, None, None, None, to_weight, None
        invstd = (var + ctx.eps).rsqrt()
        along = widened(gradient) * x
        to_weight = (along * invstd).sum_to_size(weight.shape)
        # ∂L/∂var = -½ invstd³ Σ gradient · weight · x, and ∂var/∂x = 2 (x - mean) / n
        n = math.prod(x.shape[dim] for dim in ctx.dims)
        to_std = -(invstd**3) * along.mul_(weight).sum(ctx.dims, keepdim=True) / n
        to_x = torch.mul(x, to_std, out=along).sub_(mean * to_std).add_((gradient * weight).mul_(invstd))
        return to_x.to(x.dtype), None, None, None, None, to_weight, None


def _source(x: Tensor) -> tuple[Tensor | None, Tensor | None, float]:
    """What :func:`scale_by_cosine` made `x` of, if autograd keeps it: linear map, norm and B; else None twice."""
    made: Any = x.grad_fn
    nothing = (None, None, 0.0)
    is_transform = type(made) is _ScaleByCosine._backward_cls
    if not is_transform or made.version != x._version:
        return nothing
    linear, norm = (input_() for input_ in made.inputs)
    return nothing if linear is None or norm is None else (linear, norm, made.b)


def _save(ctx: Any, source: Sequence[Any], weight: Tensor, output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep weight and statistics of a norm, and `x`, the first of `source`, or what else it says `x` comes from."""
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    x, linear, norm, ctx.b = source
    ctx.x = None if linear is None else weakref.ref(x)
    ctx.save_for_backward(*((x,) if linear is None else (linear, norm)), weight, mean, var)


def _saved(ctx: Any) -> tuple[Tensor, ...]:
    """`x` and the others that :func:`_save` has kept."""
    if ctx.x is None:
        return ctx.saved_tensors  # type: ignore[no-any-return]
    linear, norm, *others = ctx.saved_tensors
    x = ctx.x() if torch.is_grad_enabled() else None  # whoever has it may want a second derivative by it
    return scale_by_cosine(linear, norm, ctx.b) if x is None else x, *others


def _plain(x: Tensor, dims: tuple[int, ...], weight: Tensor, eps: float) -> Tensor:
    var = widened(x).var(dim=dims, correction=0, keepdim=True)
    return (x * (var + eps).rsqrt() * weight).to(x.dtype)


def _gradients(y: Tensor, x: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Differentiable gradients of `y` by `x` and `weight`, where they need one."""
    wanted = [leaf for leaf in (x, weight) if leaf.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
    to_x, to_weight = (next(found) if leaf.requires_grad else None for leaf in (x, weight))
    return to_x, to_weight


def _magnitude(x: Tensor) -> Tensor:
    """``|x|`` in full precision, a tensor of its own."""
    return x.float().abs_() if is_half(x) else x.abs()


def _full_statistics(x: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """What tells PyTorch to compute statistics of half precisions in float32: running ones of that, which stay."""
    if not is_half(x):
        return None, None
    return x.new_zeros(x.shape[1], dtype=torch.float32), x.new_ones(x.shape[1], dtype=torch.float32)


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))
