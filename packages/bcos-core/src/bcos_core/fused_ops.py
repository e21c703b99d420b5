"""Two hot steps of training with hand-written derivatives, which take half of autograd's passes over memory.

Values and derivatives are those of the plain expressions in :mod:`bcos_core.functional` and
:mod:`bcos_core.norms`; second derivatives too. Under ``torch.compile`` the plain expressions are used, which
the compiler fuses itself.
"""

from typing import Any

import torch
from torch import Tensor

COS_EPS = 1e-6
"""Added to |cos| before a power other than 1, whose derivative at 0 may be infinite."""


def is_fusible(*tensors: Tensor) -> bool:
    """Whether a gradient is recorded, eagerly, in one full precision."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and any(t.requires_grad for t in tensors)
        and all(t.dtype == tensors[0].dtype and t.dtype in (torch.float32, torch.float64) for t in tensors)
    )


def scale_by_cosine(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """``(|linear| / norm + ε)^(b-1) · linear``, with `norm` broadcast over channels.

    ε is :data:`COS_EPS`, but for B = 2, where the power is none and ε is 0.
    """
    result: Tensor = _ScaleByCosine.apply(linear, norm, float(b))
    return result


def divide_by_batch_std(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x / sqrt(var + eps) · weight`` with the biased variance of each channel of the batch.

    Beside it, the inverse standard deviations (C,), detached.
    """
    y, _, invstd = _DivideByBatchStd.apply(x, weight, eps)
    return y, invstd


class _ScaleByCosine(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(linear: Tensor, norm: Tensor, b: float) -> Tensor:
        cosine = linear.abs().div_(norm)
        return (cosine if b == 2 else cosine.add_(COS_EPS).pow_(b - 1)).mul_(linear)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], _output: Tensor) -> None:
        linear, norm, ctx.b = inputs
        ctx.save_for_backward(linear, norm)
        ctx.save_for_forward(linear, norm)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        linear, norm = ctx.saved_tensors
        factor, slope = _ScaleByCosine._factors(linear, norm, ctx.b)
        scaled = slope * gradient
        to_norm = -((scaled * linear).sum_to_size(norm.shape) / norm) if ctx.needs_input_grad[1] else None
        return (2 * scaled if ctx.b == 2 else torch.addcmul(scaled, factor, gradient)), to_norm, None

    @staticmethod
    def jvp(ctx: Any, d_linear: Tensor, d_norm: Tensor, _b: None) -> Tensor:
        linear, norm = ctx.saved_tensors
        factor, slope = _ScaleByCosine._factors(linear, norm, ctx.b)
        derivative: Tensor = factor * d_linear + slope * (d_linear - linear * d_norm / norm)
        return derivative

    @staticmethod
    def _factors(linear: Tensor, norm: Tensor, b: float) -> tuple[Tensor, Tensor]:
        """``f = (c + ε)^(b-1)`` and ``c · ∂f/∂c`` at ``c = |linear| / norm``."""
        cosine = linear.abs().div_(norm)
        if b == 2:
            return cosine, cosine
        shifted = cosine + COS_EPS
        power = shifted.pow(b - 2)
        return shifted * power, (b - 1) * cosine * power


class _DivideByBatchStd(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        _, mean, invstd = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        return x * _along_channels(invstd * weight, x), mean, invstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, ctx.eps = inputs
        _, mean, invstd = output
        ctx.mark_non_differentiable(mean, invstd)
        ctx.save_for_backward(x, weight, mean, invstd)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, mean, invstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the same derivative, differentiable itself
            y = _plain(x, weight, ctx.eps)
            to_x, to_weight = torch.autograd.grad(y, (x, weight), gradient, create_graph=True)
            return to_x, to_weight, None
        dims = (0, *range(2, x.ndim))
        along = (gradient * x).sum(dims)  # ∂L/∂(invstd · weight)
        to_std = -(invstd**3) * weight * along / (x.numel() // x.shape[1])
        to_x = gradient * _along_channels(invstd * weight, x)
        to_x.addcmul_(x - _along_channels(mean, x), _along_channels(to_std, x))
        return to_x, along * invstd, None


def _plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    var = x.var(dim=(0, *range(2, x.ndim)), correction=0, keepdim=True)
    return x * (var + eps).rsqrt() * _along_channels(weight, x)


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))
