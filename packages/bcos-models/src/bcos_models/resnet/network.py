"""Residual blocks, the network around them, and the builders that the descriptions name."""

from functools import partial
from typing import Literal, Unpack

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_models.checks import check_depths, check_sizes, depth_rates
from bcos_models.classifier import ImageClassifier, Stage
from bcos_models.layers import BcosOptions, Layers, bcos_layers, plain_layers, stochastic_depth


class ResidualBlock(nn.Module):
    """``y = act(branch(x) + shortcut(x))``; its convolutions and norms are ``conv1``, ``bn1``, ...

    Args:
        stride: of the block; where it is not 1, or the channels change, the shortcut is a 1×1 convolution
            with a norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, layers: Layers, drop_path: float) -> None:
        super().__init__()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                layers.conv(in_channels, out_channels, 1, stride), layers.norm(out_channels)
            )
        self.act = layers.act()
        self.drop_path = stochastic_depth(drop_path)

    def branch(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.act(self.drop_path(self.branch(x)) + shortcut)
        return y


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions, the first with the stride."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, layers: Layers, groups: int, base_width: int, drop_path: float
    ) -> None:
        super().__init__(in_channels, width, stride, layers, drop_path)
        if groups != 1 or base_width != 64:
            raise BcosError(
                f"basic blocks have no groups, got groups={groups} and base_width={base_width}; use block='bottleneck'"
            )
        self.conv1 = layers.conv(in_channels, width, 3, stride, 1)
        self.bn1 = layers.norm(width)
        self.conv2 = layers.conv(width, width, 3, 1, 1)
        self.bn2 = layers.norm(width)

    def branch(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        x = self.act(self.bn1(self.conv1(x)))
        y: Tensor = self.bn2(self.conv2(x))
        return y


class Bottleneck(ResidualBlock):
    """1×1, 3×3 with the stride (as torchvision's v1.5), 1×1 with four times the width."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, layers: Layers, groups: int, base_width: int, drop_path: float
    ) -> None:
        out_channels = width * self.expansion
        super().__init__(in_channels, out_channels, stride, layers, drop_path)
        inner = int(width * base_width / 64) * groups
        self.conv1 = layers.conv(in_channels, inner, 1)
        self.bn1 = layers.norm(inner)
        self.conv2 = layers.conv(inner, inner, 3, stride, 1, 1, groups)
        self.bn2 = layers.norm(inner)
        self.conv3 = layers.conv(inner, out_channels, 1)
        self.bn3 = layers.norm(out_channels)

    def branch(self, x: Tensor) -> Tensor:
        """Compute the residual."""
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        y: Tensor = self.bn3(self.conv3(x))
        return y


BlockName = Literal["basic", "bottleneck"]
_BLOCKS: dict[BlockName, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(ImageClassifier):
    """Stem, stages of residual blocks, a 1×1 convolution as classifier, global average pooling, logit layer.

    Args:
        layers: which convolutions, norms, activations and pooling.
        block: kind of residual block.
        depths: blocks of each stage; every stage but the first halves the resolution.
        num_classes: K.
        in_chans: channels of the encoded input.
        width: channels of the stem; stage i has ``width · 2^i`` (times the block's expansion).
        groups: of the 3×3 convolutions of bottlenecks (ResNeXt).
        base_width: width of a group, in units of width/64.
        small_inputs: 3×3 stem without stride and pooling, for images of about 32×32.
        drop_path: stochastic depth of the last block, growing linearly from 0 at the first.

    Shapes: (N, in_chans, H, W) → (N, K).

    Source: He et al., 2016; Xie et al., 2017 (ResNeXt).
    """

    def __init__(
        self,
        layers: Layers,
        *,
        block: BlockName,
        depths: tuple[int, ...],
        num_classes: int,
        in_chans: int,
        width: int = 64,
        groups: int = 1,
        base_width: int = 64,
        small_inputs: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        if block not in _BLOCKS:
            raise BcosError(f"block must be one of {tuple(_BLOCKS)}, got {block!r}")
        kind = _BLOCKS[block]
        check_depths(tuple(depths))
        check_sizes(num_classes=num_classes, in_chans=in_chans, width=width)
        rates = iter(depth_rates(drop_path, sum(depths)))
        out_channels = [width * 2**i * kind.expansion for i in range(len(depths))]
        super().__init__(
            stages=_stages(width, out_channels, small_inputs),
            classifier="fc",
            make_classifier=partial(layers.classifier, out_channels[-1], kernel_size=1),
            num_classes=num_classes,
            logits=layers.logits,
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
                blocks.append(kind(channels, width * 2**stage, stride, layers, groups, base_width, next(rates)))
                channels = out_channels[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = self._make_classifier(num_classes)
        self.initialise(self)

    def draw(self, weight: Tensor) -> None:
        """He et al.'s initialisation, as torchvision's."""
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _stages(width: int, out_channels: list[int], small_inputs: bool) -> list[Stage]:
    """Stem (before its pooling), then the stages of blocks."""
    reduction = 1 if small_inputs else 2
    stages = [Stage(("conv1", "bn1", "act"), width, reduction)]
    for i, channels in enumerate(out_channels):
        reduction *= 1 if small_inputs and i == 0 else 2
        stages.append(Stage((*(("pool",) if i == 0 else ()), f"layer{i + 1}"), channels, reduction))
    return stages


def bcos_resnet(
    *,
    block: BlockName,
    depths: tuple[int, ...],
    num_classes: int,
    in_chans: int = 6,
    norm: str = "batch_uncentered",
    width: int = 64,
    groups: int = 1,
    base_width: int = 64,
    small_inputs: bool = False,
    drop_path: float = 0.0,
    **options: Unpack[BcosOptions],
) -> ResNet:
    """B-cos ResNet; arguments as for :class:`ResNet` and :func:`bcos_layers`."""
    return ResNet(
        bcos_layers(norm, **options),
        block=block,
        depths=depths,
        num_classes=num_classes,
        in_chans=in_chans,
        width=width,
        groups=groups,
        base_width=base_width,
        small_inputs=small_inputs,
        drop_path=drop_path,
    )


plain_resnet = partial(ResNet, plain_layers(), in_chans=3)
"""Build the baseline: the same architecture with plain convolutions, batch norm, ReLU and max pooling."""
