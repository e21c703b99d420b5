"""The network around the blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

from bcos_core import BcosConv2d, LogitLayer
from bcos_models.layers import Layers
from bcos_models.resnet.blocks import Block


class ResNet(nn.Module):
    """Stem, stages of residual blocks, a 1×1 convolution as classifier, global average pooling, logit layer.

    The classifier stands *before* the pooling (Böhle et al., TPAMI 2024, section 3.4): every position votes
    for the classes. For a plain (linear) classifier the order makes no difference.

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
        logit_bias: added to the logits; None for none.
        logit_temperature: the logits are divided by it; None for none.

    Shapes: (N, in_chans, H, W) → (N, K).
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        layers: Layers,
        *,
        num_classes: int,
        in_chans: int,
        width: int = 64,
        groups: int = 1,
        base_width: int = 64,
        small_inputs: bool = False,
        drop_path: float = 0.0,
        classifier_bias: bool = False,
        logit_bias: float | None = None,
        logit_temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem = (3, 1, 1) if small_inputs else (7, 2, 3)  # kernel, stride, padding
        self.conv1 = layers.conv(in_chans, width, *stem)
        self.bn1 = layers.norm(width)
        self.act = layers.act()
        self.pool = nn.Identity() if small_inputs else layers.pool(3, 2, 1)
        rates = iter(drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
        channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stage_width = width * 2**stage
                blocks.append(
                    block(
                        channels,
                        stage_width,
                        2 if stage > 0 and i == 0 else 1,
                        layers,
                        groups=groups,
                        base_width=base_width,
                        drop_path=next(rates),
                    )
                )
                channels = stage_width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(depths)
        self.num_features = channels
        self.fc = nn.Conv2d(channels, num_classes, 1) if classifier_bias else layers.conv(channels, num_classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.logit_layer = LogitLayer(logit_temperature, logit_bias)
        self._initialise()

    def _initialise(self) -> None:
        """He et al.'s initialisation of every convolution, as torchvision's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | BcosConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps of the last stage, (N, num_features, h, w)."""
        x = self.pool(self.act(self.bn1(self.conv1(x))))
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        votes = self.fc(self.forward_features(x))  # (N, K, h, w)
        logits: Tensor = self.logit_layer(self.avgpool(votes).flatten(1))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the 1×1 convolution that votes for the classes."""
        return self.fc
