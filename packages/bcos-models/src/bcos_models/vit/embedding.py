"""Patch embedding: the tokens of an image, with their positions."""

import torch
from torch import Tensor, nn

from bcos_core import is_explaining
from bcos_core.additive_terms import name_as
from bcos_core.errors import BcosError
from bcos_models.layers import Layers
from bcos_models.vit.layers import TokenLayers

TEMPERATURE = 10_000.0


class PatchEmbedding(nn.Module):
    """``token = project(patch) + position``, for the patches of an image or of the stem's feature maps.

    A patch is flattened with the channels last: (row, column, channel).

    Args:
        patch: side of a patch, in positions of what the stem gives.
        stem: channels of the stem's 3×3 convolutions, each followed by a norm; where they grow the resolution
            is halved. Empty for none.

    Shapes: (N, in_chans, H, W) → (N, tokens, dim).
    """

    def __init__(self, in_chans: int, dim: int, patch: int, stem: tuple[int, ...], layers: TokenLayers) -> None:
        super().__init__()
        self.patch = patch
        self.stem = _conv_stem(in_chans, stem, layers.stem)
        channels = stem[-1] if stem else in_chans
        self.proj = layers.linear(channels * patch * patch, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of an image."""
        x = self.stem(x)
        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch:
            raise BcosError(
                f"images must divide into patches of {self.patch}×{self.patch} pixels, got {height}×{width}; "
                "resize or crop them"
            )
        x = x.unflatten(2, (-1, self.patch)).unflatten(4, (-1, self.patch))  # (N, C, rows, p, columns, p)
        x = self.proj(x.permute(0, 2, 4, 3, 5, 1).flatten(3))  # (N, rows, columns, dim)
        positions = sincos_positions(x.shape[1], x.shape[2], x.shape[3], x.device).to(x.dtype)
        if is_explaining():
            name_as(positions, "positions")
        return x.flatten(1, 2) + positions


def _conv_stem(in_chans: int, widths: tuple[int, ...], layers: Layers) -> nn.Sequential:
    stem = nn.Sequential()
    channels = 0
    for width in widths:
        conv = layers.conv(channels or in_chans, width, 3, 2 if width > channels else 1, 1)
        stem.extend([conv, layers.norm(width), layers.act()])
        channels = width
    return stem


def sincos_positions(rows: int, columns: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Two-dimensional sine and cosine embedding of the positions of a grid, (rows · columns, dim), float32.

    With ``ω_i = 10000^(-i/(d/4 - 1))`` the embedding of (row r, column c) is
    ``[sin(c ω), cos(c ω), sin(r ω), cos(r ω)]``.

    `dim` is a multiple of 4, and at least 8.

    Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k", 2022.
    """
    omega = 1.0 / TEMPERATURE ** (torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4 - 1))
    r, c = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    row, column = r.reshape(-1, 1) * omega, c.reshape(-1, 1) * omega
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)
