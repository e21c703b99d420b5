"""Dense layers and blocks, and the network that they make."""

from collections import OrderedDict
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_models.checks import check_depths, check_sizes
from bcos_models.classifier import ImageClassifier, Stage
from bcos_models.layers import BcosOptions, Layers, bcos_layers

BOTTLENECK = 4
"""Channels of a dense layer's bottleneck, in units of the growth rate."""


class DenseLayer(nn.Module):
    """``y = drop(conv2(norm2(conv1(norm1(x)))))``: 1×1 to a bottleneck, 3×3 to `growth_rate` channels."""

    def __init__(self, in_channels: int, growth_rate: int, layers: Layers, drop_rate: float) -> None:
        super().__init__()
        inner = BOTTLENECK * growth_rate
        self.norm1 = layers.norm(in_channels)
        self.conv1 = layers.conv(in_channels, inner, 1)
        self.norm2 = layers.norm(inner)
        self.conv2 = layers.conv(inner, growth_rate, 3, 1, 1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """New feature maps."""
        y: Tensor = self.drop(self.conv2(self.norm2(self.conv1(self.norm1(x)))))
        return y


class DenseBlock(nn.Module):
    """Dense layers, each of which sees the input and what all layers before it added.

    Args:
        in_channels: of the input; the output has ``in_channels + depth · growth_rate``.
    """

    def __init__(self, depth: int, in_channels: int, growth_rate: int, layers: Layers, drop_rate: float) -> None:
        super().__init__()
        for i in range(depth):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, layers, drop_rate)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Append the layers' feature maps to `x`."""
        features = [x]
        for layer in self.children():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def transition(in_channels: int, layers: Layers) -> nn.Sequential:
    """Half the channels and half the resolution: norm, 1×1 convolution, pooling."""
    conv = layers.conv(in_channels, in_channels // 2, 1)
    return nn.Sequential(OrderedDict(norm=layers.norm(in_channels), conv=conv, pool=layers.pool(2, 2)))


class DenseNet(ImageClassifier):
    """Stem, dense blocks with transitions between them, a norm, a 1×1 convolution as classifier.

    Args:
        depths: dense layers of each block.
        num_classes: K.
        in_chans: channels of the encoded input.
        growth_rate: channels that a dense layer adds.
        width: channels of the stem.
        small_inputs: 3×3 stem without stride, norm and pooling, for images of about 32×32.
        drop_rate: dropout after each dense layer.
        norm, options: as for :func:`bcos_layers`.

    Shapes: (N, in_chans, H, W) → (N, K).

    Source: Huang et al., 2017 (DenseNet-BC).
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        num_classes: int,
        in_chans: int = 6,
        norm: str = "batch_uncentered",
        growth_rate: int = 32,
        width: int = 64,
        small_inputs: bool = False,
        drop_rate: float = 0.0,
        **options: Unpack[BcosOptions],
    ) -> None:
        check_depths(depths)
        layers = bcos_layers(norm, **options)
        check_sizes(num_classes=num_classes, in_chans=in_chans, growth_rate=growth_rate, width=width)
        if not 0 <= drop_rate < 1:
            raise BcosError(f"drop_rate must be in [0, 1), got {drop_rate}")
        features = nn.Sequential()
        stem = (3, 1, 1) if small_inputs else (7, 2, 3)  # kernel, stride, padding
        features.add_module("conv0", layers.conv(in_chans, width, *stem))
        stages, pending, reduction = [], [], 1 if small_inputs else 2
        if not small_inputs:
            features.add_module("norm0", layers.norm(width))
            features.add_module("pool0", layers.pool(3, 2, 1))
            pending = ["features.pool0"]
        stages.append(
            Stage(tuple(f"features.{n}" for n in ("conv0", "norm0") if hasattr(features, n)), width, reduction)
        )
        channels = width
        for i, depth in enumerate(depths):
            block = f"denseblock{i + 1}"
            features.add_module(block, DenseBlock(depth, channels, growth_rate, layers, drop_rate))
            channels += depth * growth_rate
            reduction *= 2 if pending else 1
            stages.append(Stage((*pending, f"features.{block}"), channels, reduction))
            if i < len(depths) - 1:
                features.add_module(f"transition{i + 1}", transition(channels, layers))
                pending = [f"features.transition{i + 1}"]
                channels //= 2
        features.add_module("norm5", layers.norm(channels))
        super().__init__(
            stages=stages,
            norm=("features.norm5",),
            classifier="classifier",
            make_classifier=partial(layers.classifier, channels, kernel_size=1),
            num_classes=num_classes,
            logits=layers.logits,
        )
        self.features = features
        self.classifier = self._make_classifier(num_classes)
        self.initialise(self)

    def draw(self, weight: Tensor) -> None:
        """He et al.'s initialisation, as torchvision's."""
        nn.init.kaiming_normal_(weight)
