"""Norms whose statistics belong to one sample: Group, Instance, Layer (of a CNN or of tokens) and Position."""

import torch.nn.functional as F
from torch import Tensor

from bcos_core.errors import BcosError
from bcos_core.fused_ops import divide_by_std_of, is_fusible
from bcos_core.mode_state import is_explaining
from bcos_core.norms.base import Norm, apply_affine, divide_by_std, variance


class GroupNorm2d(Norm):
    """Group norm: mean and variance over space and the channels of a group, of each sample (Wu and He, 2018).

    Args:
        num_groups: groups of channels, each normalised by itself.
        num_channels: channels C of the input.
        eps: added to the variance.
        affine: learn a weight for each channel.
        bias: learn a bias for each channel too.

    Shapes: (N, C, *spatial) → the same.

    Raises:
        BcosError: `num_groups` does not divide `num_channels`, or the input has other channels.
    """

    def __init__(
        self, num_groups: int, num_channels: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False
    ) -> None:
        super().__init__(num_channels, eps, affine, bias)
        if num_groups < 1 or num_channels % num_groups:
            raise BcosError(f"num_groups must divide num_channels, got {num_groups} and {num_channels}")
        self.num_groups = num_groups
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each group of channels."""
        self.check_channels(x, self.num_channels)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Show sizes and parameters."""
        return f"{self.num_groups}, {self.num_channels}, {super().extra_repr()}"


class GroupNormUncentered2d(GroupNorm2d):
    """Group norm that does not subtract the mean; arguments as in :class:`GroupNorm2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide each group of channels by its standard deviation."""
        self.check_channels(x, self.num_channels)
        groups = x.unflatten(1, (self.num_groups, -1))  # (N, G, C/G, *spatial)
        within = tuple(range(2, groups.ndim))
        weight = None if self.weight is None else self.weight.reshape(self.num_groups, -1, *[1] * (x.ndim - 2))
        return apply_affine(_scaled(groups, within, weight, self.eps).flatten(1, 2), None, self.bias)


class InstanceNorm2d(GroupNorm2d):
    """Group norm with one channel a group."""

    def __init__(self, num_channels: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False) -> None:
        super().__init__(num_channels, num_channels, eps=eps, affine=affine, bias=bias)


class InstanceNormUncentered2d(GroupNormUncentered2d, InstanceNorm2d):
    """Uncentred group norm with one channel a group."""


class LayerNorm2d(GroupNorm2d):
    """Group norm with all channels in one group: layer norm of a CNN, over channels and space."""

    def __init__(self, num_channels: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False) -> None:
        super().__init__(1, num_channels, eps=eps, affine=affine, bias=bias)


class LayerNormUncentered2d(GroupNormUncentered2d, LayerNorm2d):
    """Uncentred group norm with all channels in one group."""


class PositionNorm2d(GroupNorm2d):
    """Mean and variance over the channels of each pixel (Li et al., 2019; ConvNeXt's norm)."""

    def __init__(self, num_channels: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False) -> None:
        super().__init__(1, num_channels, eps=eps, affine=affine, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        self.check_channels(x, self.num_channels)
        y = F.layer_norm(x.movedim(1, -1), (self.num_channels,), self.weight, self.bias, self.eps)
        return y.movedim(-1, 1)


class PositionNormUncentered2d(PositionNorm2d):
    """Divide each pixel by the standard deviation of its channels; the mean is not subtracted."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale each pixel."""
        self.check_channels(x, self.num_channels)
        weight = None if self.weight is None else self.weight.reshape(-1, *[1] * (x.ndim - 2))
        return apply_affine(_scaled(x, (1,), weight, self.eps), None, self.bias)


class LayerNorm(Norm):
    """Layer norm over the features of a token (Ba et al., 2016).

    Args:
        num_features: size of the last dimension.
        eps: added to the variance.
        affine: learn a weight.
        bias: learn a bias too; B-cos ViTs have none.

    Shapes: (..., num_features) → the same.

    Raises:
        BcosError: another size of the last dimension.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False) -> None:
        super().__init__(num_features, eps, affine, bias)
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each token."""
        self._check(x)
        return F.layer_norm(x, (self.num_features,), self.weight, self.bias, self.eps)

    def _check(self, x: Tensor) -> None:
        if x.ndim < 1 or x.shape[-1] != self.num_features:
            raise BcosError(
                f"{type(self).__name__} got an input of shape {tuple(x.shape)}, "
                f"needs {self.num_features} features in its last dimension"
            )


class LayerNormUncentered(LayerNorm):
    """Divide each token by its standard deviation; the mean is not subtracted."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale each token."""
        self._check(x)
        return apply_affine(_scaled(x, (-1,), self.weight, self.eps), None, self.bias, channel_dim=-1)


def _scaled(x: Tensor, dims: tuple[int, ...], weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(var + eps) · weight`` with the variance over `dims`; `weight` broadcasts to `x`."""
    if weight is not None and is_fusible(x, weight) and not is_explaining():
        return divide_by_std_of(x, weight, dims, eps)
    y = divide_by_std(x, variance(x, dims), eps)
    return y if weight is None else y * weight.to(x.dtype)
