"""Derivatives with respect to an image that is encoded with inverse channels."""

import torch
from torch import Tensor

_TOLERANCE = 5e-3
"""How far ``x + (1 - x)`` may be from 1: it may have been encoded in bfloat16, which rounds by up to 0.004."""


def image_signs(x: Tensor) -> Tensor:
    """``∂x_c / ∂image`` of each input channel c: -1 for the inverse channels of an encoded image, else 1.

    With :class:`bcos_core.AddInverse` a network sees ``[u, 1 - u]`` of an image u, so that by the chain rule
    ``∂f/∂u_c = ∂f/∂x_c - ∂f/∂x_(c+C)``. That an input is encoded this way is seen in its values, not in the
    number of channels: the second half is one minus the first, in every pixel but those that are zero in all
    channels, where an image was taken away.

    Args:
        x: (N, C, H, W).

    Returns:
        (N, C, 1, 1), in the type of x.
    """
    signs = torch.ones_like(x[:, :, :1, :1])
    half, odd = divmod(x.shape[1], 2)
    if odd:
        return signs
    first, second = x[:, :half], x[:, half:]
    tolerance = max(_TOLERANCE, 4 * torch.finfo(x.dtype).eps)
    inverse = ((first + second - 1).abs() <= tolerance).all(1)  # (N, H, W)
    encoded = (inverse | (x == 0).all(1)).all((1, 2)) & inverse.any((1, 2))
    signs[encoded, half:] = -1
    return signs
