"""A B-cos version of the All-CNN (Springenberg et al., 2015, arXiv 1412.6806): strides instead of pooling."""

import math

import torch
from torch import Tensor, nn

from bcos_core import BcosConv2d, LogitLayer
from bcos_core.norms import BatchNormUncentered2d


class Gate(nn.Module):
    """``x · sinc(x)``, which is explained with the rule of this package for ``torch.sinc``."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate every value."""
        return x * torch.sinc(x)


def allconv(
    *, num_classes: int, in_chans: int, widths: tuple[int, ...], b: float = 2.0, gated: bool = False
) -> nn.Sequential:
    """Pairs of 3×3 convolutions, the second with stride 2; then a vote of every position, averaged.

    Args:
        num_classes: K.
        in_chans: channels of the encoded input.
        widths: channels of each pair.
        b: exponent B.
        gated: whether a gate follows the last pair.
    """
    layers: list[nn.Module] = []
    channels = in_chans
    for width in widths:
        for stride in (1, 2):
            layers += [BcosConv2d(channels, width, 3, stride, 1, b=b), BatchNormUncentered2d(width)]
            channels = width
    if gated:
        layers.append(Gate())
    return nn.Sequential(
        *layers,
        BcosConv2d(channels, num_classes, 1, b=b),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(logit_bias=-math.log(num_classes - 1)),
    )
