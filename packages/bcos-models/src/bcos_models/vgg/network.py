"""Stages of 3×3 convolutions, and a head of three more."""

from functools import partial
from typing import Unpack

from torch import Tensor, nn

from bcos_models.checks import check_depths, check_sizes
from bcos_models.classifier import ImageClassifier, Stage
from bcos_models.layers import BcosOptions, bcos_layers

MAX_GROWTH = 8
"""Channels of a stage, at most, in units of the first stage's."""


class VGG(ImageClassifier):
    """Stages of 3×3 convolutions with pooling between them; 7×7, 1×1 and 1×1 convolutions as head.

    Args:
        depths: convolutions of each stage; after each stage the resolution is halved.
        num_classes: K.
        in_chans: channels of the encoded input.
        width: channels of the first stage; they double up to 8 times that.
        head_width: channels of the head.
        pool: whether to pool; if not, each stage's last convolution has the stride.
        norm, options: as for :func:`bcos_layers`.

    Shapes: (N, in_chans, H, W) → (N, K).

    Source: Simonyan and Zisserman, 2015; the head over all positions: Böhle et al., TPAMI 2024.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        num_classes: int,
        in_chans: int = 6,
        norm: str = "none",
        width: int = 64,
        head_width: int = 4096,
        pool: bool = True,
        **options: Unpack[BcosOptions],
    ) -> None:
        check_depths(depths)
        layers = bcos_layers(norm, **options)
        check_sizes(num_classes=num_classes, in_chans=in_chans, width=width, head_width=head_width)
        modules: list[nn.Module] = []
        stages, start, channels = [], 0, in_chans
        for stage, depth in enumerate(depths):
            out_channels = width * min(2**stage, MAX_GROWTH)
            for i in range(depth):
                strided = not pool and i == depth - 1
                modules += [layers.conv(channels, out_channels, 3, 2 if strided else 1, 1), layers.norm(out_channels)]
                channels = out_channels
            end = len(modules)
            stages.append(Stage(_names(start, end), channels, 2**stage if pool else 2 ** (stage + 1)))
            start = end
            if pool:
                modules.append(layers.pool(2, 2))
        super().__init__(
            stages=stages,
            pre_logits=(*_names(start, len(modules)), "classifier.0", "classifier.1"),
            classifier="classifier.2",
            make_classifier=partial(layers.classifier, head_width, kernel_size=1),
            num_classes=num_classes,
            logits=layers.logits,
            head_hidden_size=head_width,
        )
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Sequential(
            layers.conv(channels, head_width, 7, 1, 3),
            layers.conv(head_width, head_width, 1),
            self._make_classifier(num_classes),
        )
        self.initialise(self)

    def draw(self, weight: Tensor) -> None:
        """He et al.'s initialisation, as torchvision's."""
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _names(start: int, end: int) -> tuple[str, ...]:
    return tuple(f"features.{i}" for i in range(start, end))
