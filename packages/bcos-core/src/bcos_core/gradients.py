"""Operations with the value of one function and the gradient of another."""

from typing import Any

import torch
from torch import Tensor


class _Scaled(torch.autograd.Function):
    """``y ↦ y`` with the gradient times a number."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _Gated(torch.autograd.Function):
    """``x ↦ y`` with the gradient of ``x · gate``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(gate)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gate,) = ctx.saved_tensors
        return gradient * gate, None, None


def scale_gradient(y: Tensor, factor: float) -> Tensor:
    """Return `y`, through which gradients pass multiplied by `factor`."""
    scaled: Tensor = _Scaled.apply(y, factor)  # type: ignore[no-untyped-call] # reason: untyped in PyTorch
    return scaled


def as_gated(x: Tensor, y: Tensor) -> Tensor:
    """Return `y`, as ``x · (y/x)`` with a constant gate ``y/x``, which is 0 where x is.

    Args:
        x: that y was computed from, element by element.
        y: a constant of the same shape.
    """
    values = x.detach()
    gate = torch.where(values == 0, 0, y / values)
    gated: Tensor = _Gated.apply(x, gate, y)  # type: ignore[no-untyped-call] # reason: untyped in PyTorch
    return gated
