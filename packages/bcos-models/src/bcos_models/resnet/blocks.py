"""The two residual blocks."""

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_models.layers import Layers, stochastic_depth


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
