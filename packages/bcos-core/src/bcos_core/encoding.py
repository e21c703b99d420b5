"""Input encoding of B-cos networks."""

import torch
from torch import Tensor, nn

from bcos_core.additive_terms import name_as
from bcos_core.errors import BcosError
from bcos_core.mode_state import is_explaining

IMAGE_CHANNELS = (1, 2, 3, 4)
"""Channels of an image without a batch, from grey to RGBA, for whose dimension nobody has to say so."""
INVERSE = "inverse channels"
"""Name of the 1 of ``1 - x`` among the additive terms of an explanation."""


class AddInverse(nn.Module):
    """Append the inverse of every channel: ``[r, g, b] → [r, g, b, 1-r, 1-g, 1-b]``.

    With values in [0, 1] every pixel then has the same, non-zero sum of channels, dark pixels can contribute
    as much as bright ones, and the *direction* of a pixel's weight vector encodes a colour. Works for any
    number of channels: greyscale becomes ``[x, 1-x]``.

    It belongs in front of the network that is explained. Inside of it, ``1 - x`` adds a constant, and most of
    a score is bias: the weights of the inverse channels, summed.

    Args:
        dim: the dimension of the channels; -3 for images (..., C, H, W), -2 for sequences (..., C, L), -4 for
            volumes, -1 for vectors. None is -3 for images (N, C, H, W), and for any (..., C, H, W) of at most four
            channels: with more, images (C, H, W) and sequences (N, C, L) look the same, and `dim` has to be given.

    Shapes: (..., C, H, W) → (..., 2C, H, W).

    Raises:
        BcosError: an integer input (convert to floats in [0, 1] first), one without that dimension, or one whose
            channels could be in another, while `dim` is not given.

    >>> AddInverse()(torch.full((3, 1, 1), 0.25)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.75, 0.75, 0.75]

    Source: Böhle et al., TPAMI 2024, section 3.4.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = -3 if dim is None else dim
        self.is_given = dim is not None

    def forward(self, x: Tensor) -> Tensor:
        """Double the channels of `x`."""
        if not x.is_floating_point():
            raise BcosError(f"AddInverse needs floats in [0, 1], got {x.dtype}; divide 8-bit images by 255 first")
        if not -x.ndim <= self.dim < x.ndim:
            raise BcosError(
                f"AddInverse(dim={self.dim}) got an input of shape {tuple(x.shape)}, which has no such dimension; give "
                "the dimension of its channels, -1 for vectors (N, F)"
            )
        if not self.is_given and x.ndim != 4 and x.shape[-3] not in IMAGE_CHANNELS:
            other, kind = ("-2", "sequences (N, C, L)") if x.ndim == 3 else ("-4", "volumes (N, C, D, H, W)")
            raise BcosError(
                f"AddInverse() got an input of shape {tuple(x.shape)}, whose channels could be in two dimensions; give "
                f"dim={other} for {kind}, dim=-3 for images (..., C, H, W) of {x.shape[-3]} channels"
            )
        one = name_as(x.new_ones(()), INVERSE) if is_explaining() else 1
        return torch.cat([x, one - x], dim=self.dim)

    def extra_repr(self) -> str:
        """Show the dimension."""
        return f"dim={self.dim}"
