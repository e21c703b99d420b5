"""The ConvNeXt block, and the network of such blocks."""

from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.norms.factory import NORM_EPS
from bcos_models.checks import check_depths, check_sizes, depth_rates
from bcos_models.classifier import ImageClassifier, Stage
from bcos_models.layers import BcosOptions, Layers, bcos_layers, stochastic_depth

POSITION_EPS = 1e-6
EXPANSION = 4
"""Channels inside a block, in units of its width."""


class ConvNeXtBlock(nn.Module):
    """``y = x + γ · conv1×1(conv1×1(norm(depthwise7×7(x))))``, widening to four times the channels inside.

    Args:
        layer_scale: initial value of the learned γ, one for each channel.
    """

    def __init__(self, channels: int, layers: Layers, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            layers.conv(channels, channels, 7, 1, 3, 1, channels),
            layers.norm(channels),
            layers.conv(channels, EXPANSION * channels, 1),
            layers.conv(EXPANSION * channels, channels, 1),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), layer_scale))
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled branch to `x`."""
        branch: Tensor = self.drop_path(self.layer_scale * self.block(x))
        return branch + x


class ConvNeXt(ImageClassifier):
    """4×4 stem with stride 4, stages of blocks, 2×2 convolutions with stride 2 between them; norm and classifier.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        num_classes: K.
        in_chans: channels of the encoded input.
        layer_scale: initial scale of the residual branches.
        drop_path: stochastic depth of the last block, growing linearly from 0 at the first.
        norm, options: as for :func:`bcos_layers`.
        norm_eps: None is 1e-6 for position norm, as in the paper, and 1e-5 for the others.

    Shapes: (N, in_chans, H, W) → (N, K).

    Source: Liu et al., 2022; Böhle et al., TPAMI 2024.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int,
        in_chans: int = 6,
        norm: str = "position",
        norm_eps: float | None = None,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
        **options: Unpack[BcosOptions],
    ) -> None:
        check_depths(depths)
        if norm_eps is None:
            norm_eps = POSITION_EPS if norm == "position" else NORM_EPS
        layers = bcos_layers(norm, norm_eps=norm_eps, **options)
        if len(widths) != len(depths):
            raise BcosError(f"widths and depths must be as many, got {widths} and {depths}")
        check_sizes(num_classes=num_classes, in_chans=in_chans, width=min(widths))
        rates = iter(depth_rates(drop_path, sum(depths)))
        features, stages, channels = nn.Sequential(), [], in_chans
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if i == 0:
                features.extend([layers.conv(channels, width, 4, 4), layers.norm(width)])
            else:
                features.append(nn.Sequential(layers.norm(channels), layers.conv(channels, width, 2, 2)))
            channels = width
            features.append(
                nn.Sequential(*(ConvNeXtBlock(width, layers, layer_scale, next(rates)) for _ in range(depth)))
            )
            first = 2 * i + 1 if i else 0
            stages.append(Stage(tuple(f"features.{j}" for j in range(first, len(features))), width, 4 * 2**i))
        super().__init__(
            stages=stages,
            pre_logits=("classifier.0",),
            classifier="classifier.1",
            make_classifier=partial(layers.classifier, channels, kernel_size=1),
            num_classes=num_classes,
            logits=layers.logits,
        )
        self.features = features
        self.classifier = nn.Sequential(layers.norm(channels), self._make_classifier(num_classes))
        self.initialise(self)

    def draw(self, weight: Tensor) -> None:
        """Truncated normal, as in the paper."""
        nn.init.trunc_normal_(weight, std=0.02)
