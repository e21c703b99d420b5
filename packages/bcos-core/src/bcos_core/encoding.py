"""Input encoding of B-cos networks."""

import torch
from torch import Tensor, nn

from bcos_core.additive_terms import name_as
from bcos_core.errors import BcosError
from bcos_core.mode_state import is_explaining

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
            volumes, -1 for vectors.

    Shapes: (..., C, H, W) → (..., 2C, H, W).

    Raises:
        BcosError: an integer input (convert to floats in [0, 1] first), or one without that dimension.

    >>> AddInverse()(torch.full((3, 1, 1), 0.25)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.75, 0.75, 0.75]

    Source: Böhle et al., TPAMI 2024, section 3.4.
    """

    def __init__(self, dim: int = -3) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Double the channels of `x`."""
        if not x.is_floating_point():
            raise BcosError(f"AddInverse needs floats in [0, 1], got {x.dtype}; divide 8-bit images by 255 first")
        if not -x.ndim <= self.dim < x.ndim:
            raise BcosError(
                f"AddInverse(dim={self.dim}) got an input of shape {tuple(x.shape)}, which has no such dimension; give "
                "the dimension of its channels, -1 for vectors (N, F)"
            )
        one = name_as(x.new_ones(()), INVERSE) if is_explaining() else 1
        return torch.cat([x, one - x], dim=self.dim)

    def extra_repr(self) -> str:
        """Show the dimension."""
        return f"dim={self.dim}"
