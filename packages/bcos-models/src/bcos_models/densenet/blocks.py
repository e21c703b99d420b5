"""The dense layer, the block it makes, and the transition between blocks."""

import torch
from torch import Tensor, nn

from bcos_models.layers import Layers

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
    made = nn.Sequential()
    made.add_module("norm", layers.norm(in_channels))
    made.add_module("conv", layers.conv(in_channels, in_channels // 2, 1))
    made.add_module("pool", layers.pool(2, 2))
    return made
