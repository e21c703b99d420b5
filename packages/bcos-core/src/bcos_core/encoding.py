"""Input encoding of B-cos networks."""

import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError


class AddInverse(nn.Module):
    """Append the inverse of every channel: ``[r, g, b] → [r, g, b, 1-r, 1-g, 1-b]``.

    With values in [0, 1] every pixel then has the same, non-zero sum of channels, dark pixels can contribute
    as much as bright ones, and the *direction* of a pixel's weight vector encodes a colour. Works for any
    number of channels: greyscale becomes ``[x, 1-x]``.

    Args:
        dim: the dimension of the channels; -3 for (..., C, H, W).

    Shapes: (..., C, H, W) → (..., 2C, H, W).

    Raises:
        BcosError: an integer input (convert to floats in [0, 1] first).

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
        return torch.cat([x, 1 - x], dim=self.dim)

    def extra_repr(self) -> str:
        """Show the dimension."""
        return f"dim={self.dim}"
