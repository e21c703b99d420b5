"""The converted network: the encoding of its input, and its classifier before the pooling."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core import BcosConv2d, LogitLayer, is_explaining
from bcos_core.additive_terms import name_as
from bcos_core.conv_transpose import BcosConvTranspose
from bcos_core.functional import check_channels
from bcos_models.conversion import ConversionOptions, ConversionReport, Decisions
from bcos_models.convert.layers import TRANSPOSED
from bcos_models.convert.rules import mark_bias


class Standardize(nn.Module):
    """``(x - mean) / std``, with inverse channels: their mean is ``1 - mean``, their standard deviation the same.

    Args:
        mean: of the C channels of images in [0, 1]; so is `std`.

    Shapes: (N, 2C, H, W) → the same.

    Raises:
        BcosError: another number of channels, such as images without their inverse.

    The mean is a constant that belongs to no pixel. So only networks that were trained with it, by the first rules of
    conversion, still have it.

    Source: Arya et al., "B-cosification", NeurIPS 2024, section 3.2.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean = [*mean, *(1 - m for m in mean)]
        self.std = [*std, *std]

    def forward(self, x: Tensor) -> Tensor:
        """Standardise."""
        check_channels("the converted network", 2, x, len(self.mean))
        mean, std = (x.new_tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        if is_explaining():
            name_as(mean, "mean of the images")
        return (x - mean) / std


class WithInverse(nn.Module):
    """Passes on images with inverse channels, and refuses others.

    Args:
        channels: C of the images themselves.

    Shapes: (N, 2C, H, W) → the same.

    Raises:
        BcosError: another number of channels, such as images without their inverse.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Check the channels."""
        check_channels("the converted network", 2, x, 2 * self.channels)
        return x


class StandardizedImage(nn.Module):
    """The standardised image, from images with inverse channels and without a constant.

    Since ``image + inverse = 1``, ``(image - mean) / std = ((1 - mean) · image - mean · inverse) / std``.

    Args:
        mean: of the C channels of images in [0, 1]; so is `std`.

    Shapes: (N, 2C, H, W) → (N, C, H, W).

    Raises:
        BcosError: another number of channels, such as images without their inverse.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)

    def forward(self, x: Tensor) -> Tensor:
        """Put the channels together."""
        check_channels("the converted network", 2, x, 2 * len(self.mean))
        mean, std = (x.new_tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        image, inverse = x.chunk(2, 1)
        return image * ((1 - mean) / std) - inverse * (mean / std)


def widen(conv: Any) -> None:
    """Let a convolution of C channels take 2C, the second half being minus the first: ``[w, -w] / 2``."""
    _take_twice(conv, conv.weight / 2, -conv.weight / 2)


def take_inverse(conv: Any, mean: Sequence[float], std: Sequence[float]) -> None:
    """Let a convolution of C standardised channels take the image and its inverse, 2C channels in [0, 1].

    Its kernels become ``[(1 - mean) · w, -mean · w] / std``, with which it computes the same: see
    :class:`StandardizedImage`.
    """
    shape = [1] * conv.weight.ndim
    shape[_channel_dim(conv)] = -1
    m, s = (conv.weight.new_tensor(values).reshape(shape) for values in (mean, std))
    _take_twice(conv, (1 - m) * conv.weight / s, -m * conv.weight / s)


def _take_twice(conv: Any, of_image: Tensor, of_inverse: Tensor) -> None:
    kernels = torch.cat([of_image, of_inverse], _channel_dim(conv)).detach()
    conv.weight = nn.Parameter(kernels, requires_grad=conv.weight.requires_grad)
    conv.in_channels *= 2


def _channel_dim(conv: nn.Module) -> int:
    return 0 if isinstance(conv, (*TRANSPOSED, BcosConvTranspose)) else 1


class Positions(nn.Module):
    """Stand-in for a pooling: feature maps, (N, H, W, C) if `channels_last`, pass with channels in dimension 1."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps as (N, C, H, W)."""
        return x.movedim(-1, 1) if self.channels_last else x


class PositionClassifier(nn.Module):
    """1×1 B-cos convolution: every position votes for the classes; then the mean of the votes.

    Args:
        keep_dims: return (N, K, 1, 1), where a flattening follows.

    Shapes: (N, C, H, W), or flattened to (N, C · H · W) → (N, K).

    Source: Böhle et al., TPAMI 2024, section 3.4.
    """

    def __init__(self, conv: nn.Module, keep_dims: bool) -> None:
        super().__init__()
        self.conv = conv
        self.keep_dims = keep_dims

    @property
    def in_features(self) -> int:
        """Number of channels, under the name that linear layers use."""
        return int(self.conv.in_channels)  # type: ignore[arg-type] # reason: a convolution's

    def forward(self, x: Tensor) -> Tensor:
        """Average the votes of all positions."""
        if x.ndim == 2:
            x = x.unflatten(1, (self.in_features, -1)).unsqueeze(-1)
        votes: Tensor = self.conv(x)
        return votes.mean((2, 3), keepdim=self.keep_dims)


def position_classifier(old: Any, options: ConversionOptions) -> PositionClassifier:
    """Build the classifier with the weights of a linear layer or a 1×1 convolution."""
    classes, features = old.weight.shape[:2]
    bias = options.keep_bias and old.bias is not None
    conv = BcosConv2d(features, classes, 1, b=options.b, normalize_weight=options.unit_norm, bias=bias, device="meta")
    weight = old.weight.detach().reshape(classes, features, 1, 1)
    conv.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    if bias:
        conv.bias = old.bias
    return PositionClassifier(mark_bias(conv.train(old.training)), keep_dims=isinstance(old, nn.Conv2d))


class BcosifiedNetwork(nn.Module):
    """Encoding, the converted network, logit layer.

    Shapes: (N, channels, H, W) → (N, K).
    """

    def __init__(
        self,
        encoder: nn.Module,
        network: nn.Module,
        logit_layer: LogitLayer,
        num_classes: int,
        conversion: ConversionReport,
        decisions: Decisions,
    ) -> None:
        super().__init__()
        self.decisions = decisions
        self.encoder = encoder
        self.network = network
        self.logit_layer = logit_layer
        self.num_classes = num_classes
        self.conversion = conversion

    def get_classifier(self) -> nn.Module | None:
        """Return the layer that gives the logits, or what the network itself calls its classifier; None without."""
        if self.decisions.classifier is not None:
            return self.network.get_submodule(self.decisions.classifier)
        own = getattr(self.network, "get_classifier", None)
        found = own() if callable(own) else None
        return found if isinstance(found, nn.Module) else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y: Tensor = self.logit_layer(self.network(self.encoder(x)))
        return y
