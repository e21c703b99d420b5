"""Encoder blocks, the transformer they make, and the builders that the descriptions name."""

import math
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_models.checks import check_sizes, depth_rates
from bcos_models.classifier import ImageClassifier, Stage
from bcos_models.layers import BcosOptions, stochastic_depth
from bcos_models.vit.embedding import PatchEmbedding
from bcos_models.vit.layers import TokenLayers, TokenNorm, bcos_token_layers, plain_token_layers

MLP_RATIO = 4
"""Features inside the multi-layer perceptron, in units of a token's."""


class Mlp(nn.Module):
    """``y = fc2(act(fc1(x)))``."""

    def __init__(self, dim: int, layers: TokenLayers) -> None:
        super().__init__()
        self.fc1 = layers.linear(dim, MLP_RATIO * dim)
        self.act = layers.act()
        self.fc2 = layers.linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token."""
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class EncoderBlock(nn.Module):
    """``x ← x + attention(norm1(x))``, then ``x ← x + mlp(norm2(x))``.

    Shapes: (N, tokens, dim) → the same.
    """

    def __init__(self, dim: int, heads: int, layers: TokenLayers, drop_path: float) -> None:
        super().__init__()
        self.norm1 = layers.norm(dim)
        self.attn = layers.attention(dim, heads)
        self.norm2 = layers.norm(dim)
        self.mlp = Mlp(dim, layers)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, then transform each."""
        x = self.drop_path(self.attn(self.norm1(x))) + x
        y: Tensor = self.drop_path(self.mlp(self.norm2(x))) + x
        return y


class TokenMean(nn.Module):
    """Mean over tokens: (N, tokens, dim) → (N, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        return x.mean(1)


class VisionTransformer(ImageClassifier):
    """Patch embedding, encoder blocks, the mean over tokens, norm, classifier, logit layer.

    Args:
        layers: which layers.
        dim: features of a token, a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: of each attention.
        num_classes: K.
        in_chans: channels of the encoded input.
        patch: side of a patch, in pixels, or in positions of what the stem gives.
        stem: channels of the convolutional stem; empty for none.
        drop_path: stochastic depth of the last block, growing linearly from 0 at the first.

    Shapes: (N, in_chans, H, W) → (N, K), with H and W multiples of the patch's side in pixels.

    Source: Beyer et al., 2022 (SimpleViT); Xiao et al., 2021 (convolutional stem); Böhle et al., TPAMI 2024.
    """

    def __init__(
        self,
        layers: TokenLayers,
        *,
        dim: int,
        depth: int,
        heads: int,
        num_classes: int,
        in_chans: int,
        patch: int = 16,
        stem: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> None:
        check_sizes(num_classes=num_classes, in_chans=in_chans, dim=dim, depth=depth, patch=patch)
        if dim % 4 or dim < 8:
            raise BcosError(f"the features of a token must be a multiple of 4, and at least 8, got {dim}")
        halvings = sum(width > before for before, width in zip((0, *stem), stem, strict=False))
        self.reduction = patch * 2**halvings
        first = Stage(("embed", "blocks.0"), dim, self.reduction)
        super().__init__(
            stages=[first, *(Stage((f"blocks.{i}",), dim, self.reduction) for i in range(1, depth))],
            pre_logits=("pool", "norm"),
            classifier="head",
            make_classifier=partial(layers.linear, dim),
            num_classes=num_classes,
            logits=layers.stem.logits,
        )
        self.embed = PatchEmbedding(in_chans, dim, patch, stem, layers)
        rates = depth_rates(drop_path, depth)
        self.blocks = nn.Sequential(*(EncoderBlock(dim, heads, layers, rate) for rate in rates))
        self.pool = TokenMean()
        self.norm = layers.norm(dim)
        self.head = self._make_classifier(num_classes)

    def initialise(self, part: nn.Module) -> None:
        """Keep the initialisation of PyTorch's linear layers, as the reference does."""

    def as_map(self, features: Tensor, image: Tensor) -> Tensor:
        """Tokens (N, tokens, dim) as a feature map (N, dim, rows, columns)."""
        rows, columns = (math.ceil(side / self.reduction) for side in image.shape[-2:])
        grid: Tensor = features.transpose(1, 2).unflatten(2, (rows, columns))
        return grid


def bcos_vit(
    *,
    dim: int,
    depth: int,
    heads: int,
    num_classes: int,
    in_chans: int = 6,
    norm: TokenNorm = "layer",
    patch: int = 16,
    stem: tuple[int, ...] = (),
    drop_path: float = 0.0,
    **options: Unpack[BcosOptions],
) -> VisionTransformer:
    """B-cos ViT; arguments as for :class:`VisionTransformer` and :func:`bcos_token_layers`."""
    return VisionTransformer(
        bcos_token_layers(norm, **options),
        dim=dim,
        depth=depth,
        heads=heads,
        num_classes=num_classes,
        in_chans=in_chans,
        patch=patch,
        stem=stem,
        drop_path=drop_path,
    )


plain_vit = partial(VisionTransformer, plain_token_layers(), in_chans=3)
"""Build the baseline: the same architecture with plain linear layers, GELU and biases."""
