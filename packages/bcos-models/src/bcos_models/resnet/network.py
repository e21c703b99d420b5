"""The network around the blocks."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from bcos_models.checks import check_depths, check_sizes, depth_rates
from bcos_models.classifier import ImageClassifier, Logits, Stage
from bcos_models.layers import Layers
from bcos_models.resnet.blocks import Block


class ResNet(ImageClassifier):
    """Stem, stages of residual blocks, a 1×1 convolution as classifier, global average pooling, logit layer.

    Args:
        block: kind of residual block.
        depths: blocks of each stage; every stage but the first halves the resolution.
        layers: which convolutions, norms, activations and pooling.
        num_classes: K.
        in_chans: channels of the encoded input.
        width: channels of the stem; stage i has ``width · 2^i`` (times the block's expansion).
        groups: of the 3×3 convolutions of bottlenecks (ResNeXt).
        base_width: width of a group, in units of width/64.
        small_inputs: 3×3 stem without stride and pooling, for images of about 32×32.
        drop_path: stochastic depth of the last block, growing linearly from 0 at the first.
        classifier_bias: whether the classifier adds a bias (the plain baselines).
        logits: bias and temperature of the logits.

    Shapes: (N, in_chans, H, W) → (N, K).

    Raises:
        BcosError: values that cannot make a network.

    Source: He et al., 2016; Xie et al., 2017 (ResNeXt).
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        layers: Layers,
        *,
        num_classes: int,
        in_chans: int,
        width: int,
        groups: int,
        base_width: int,
        small_inputs: bool,
        drop_path: float,
        classifier_bias: bool = False,
        logits: Logits,
    ) -> None:
        check_depths(tuple(depths))
        check_sizes(num_classes=num_classes, in_chans=in_chans, width=width)
        rates = iter(depth_rates(drop_path, sum(depths)))
        out_channels = [width * 2**i * block.expansion for i in range(len(depths))]
        super().__init__(
            stages=_stages(width, out_channels, small_inputs),
            classifier="fc",
            make_classifier=partial(nn.Conv2d if classifier_bias else layers.conv, out_channels[-1], kernel_size=1),
            num_classes=num_classes,
            logits=logits,
        )
        stem = (3, 1, 1) if small_inputs else (7, 2, 3)  # kernel, stride, padding
        self.conv1 = layers.conv(in_chans, width, *stem)
        self.bn1 = layers.norm(width)
        self.act = layers.act()
        self.pool = nn.Identity() if small_inputs else layers.pool(3, 2, 1)
        channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(channels, width * 2**stage, stride, layers, groups, base_width, next(rates)))
                channels = out_channels[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = self._make_classifier(num_classes)
        self.initialise(self)

    def draw(self, weight: Tensor) -> None:
        """He et al.'s initialisation, as torchvision's."""
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _stages(width: int, out_channels: Sequence[int], small_inputs: bool) -> list[Stage]:
    """Stem (before its pooling), then the stages of blocks."""
    reduction = 1 if small_inputs else 2
    stages = [Stage(("conv1", "bn1", "act"), width, reduction)]
    for i, channels in enumerate(out_channels):
        reduction *= 1 if small_inputs and i == 0 else 2
        stages.append(Stage((*(("pool",) if i == 0 else ()), f"layer{i + 1}"), channels, reduction))
    return stages
