"""Operations with the value of one function and the gradient of another."""

import torch
from torch import Tensor

from bcos_core.tape import held


def scale_gradient(y: Tensor, factor: float) -> Tensor:
    """Return `y`, the result of an operation, through which gradients pass multiplied by `factor`."""
    if not y.requires_grad:  # computed where no gradients are recorded, as in an autograd function
        return y
    y.register_hook(lambda gradient: gradient * factor)  # of this tensor alone; safe if it is then changed in place
    return y


def as_gated(x: Tensor, y: Tensor) -> Tensor:
    """Return `y` as ``x · (y/x)`` with a constant gate ``y/x``, which is 0 where x is.

    Args:
        x: that y was computed from, element by element.
        y: a constant of the same shape.
    """
    values = x.detach()
    return x * held(torch.where(values == 0, 0, y / values))
