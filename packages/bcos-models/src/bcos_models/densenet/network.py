"""The network of dense blocks."""

from functools import partial

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.norms import Affine
from bcos_models.checks import check_depths, check_sizes
from bcos_models.classifier import ImageClassifier, LogitBias, Logits, Stage
from bcos_models.densenet.blocks import DenseBlock, transition
from bcos_models.layers import Antialias, bcos_layers


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
        b, max_out, norm, norm_affine, antialias: as for :func:`bcos_layers`.
        logit_bias, logit_temperature, prior: as for :class:`Logits`.

    Shapes: (N, in_chans, H, W) → (N, K).

    Raises:
        BcosError: values that cannot make a network.

    Source: Huang et al., 2017 (DenseNet-BC).
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        num_classes: int,
        in_chans: int = 6,
        b: float = 2.0,
        max_out: int = 1,
        norm: str = "batch_uncentered",
        norm_affine: Affine = "linear",
        growth_rate: int = 32,
        width: int = 64,
        small_inputs: bool = False,
        drop_rate: float = 0.0,
        antialias: Antialias = "none",
        logit_bias: LogitBias = "auto",
        logit_temperature: float | None = None,
        prior: float | None = None,
    ) -> None:
        check_depths(depths)
        layers = bcos_layers(b=b, max_out=max_out, norm=norm, norm_affine=norm_affine, antialias=antialias)
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
            make_classifier=partial(layers.conv, channels, kernel_size=1),
            num_classes=num_classes,
            logits=Logits(logit_bias, logit_temperature, prior),
        )
        self.features = features
        self.classifier = self._make_classifier(num_classes)
        self.initialise(self)

    def draw(self, weight: Tensor) -> None:
        """He et al.'s initialisation, as torchvision's."""
        nn.init.kaiming_normal_(weight)
