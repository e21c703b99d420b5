"""The two kinds of layers that families are built from: B-cos, and plain for the baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, get_args

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from bcos_core import BcosConv2d
from bcos_core.errors import BcosError
from bcos_core.norms import Affine, make_norm
from bcos_core.norms.factory import NORM_EPS
from bcos_models.classifier import LogitBias, Logits
from bcos_models.spec import Antialias


class BcosOptions(TypedDict, total=False):
    """Options of the B-cos networks of all families, beside their norm; :func:`bcos_layers` has the defaults."""

    b: float
    """Exponent B."""
    max_out: int
    """MaxOut units."""
    norm_affine: Affine
    """The norms' parameters: ``"affine"``, ``"linear"`` or ``"plain"``."""
    antialias: Antialias
    """``"blurpool"`` low-pass filters wherever the resolution is reduced."""
    logit_bias: LogitBias
    """As of :class:`Logits`; so are the following."""
    logit_temperature: float | None
    prior: float | None


@dataclass(frozen=True)
class Layers:
    """Builders of the layers of a CNN."""

    conv: Callable[..., nn.Module]
    """``(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)``"""
    norm: Callable[[int], nn.Module]
    """``(channels)``"""
    act: Callable[[], nn.Module]
    pool: Callable[..., nn.Module]
    """``(kernel_size, stride, padding)``"""
    classifier: Callable[..., nn.Module]
    """The last convolution: as `conv`, with a bias in the baselines."""
    logits: Logits


def bcos_layers(
    norm: str = "batch_uncentered",
    *,
    norm_eps: float = NORM_EPS,
    b: float = 2.0,
    max_out: int = 1,
    norm_affine: Affine = "linear",
    antialias: Antialias = "none",
    logit_bias: LogitBias = "auto",
    logit_temperature: float | None = None,
    prior: float | None = None,
) -> Layers:
    """B-cos convolutions, no activation, average pooling (Böhle et al., TPAMI 2024, section 3.3).

    Args:
        norm: a name that :func:`bcos_core.norms.make_norm` takes.
        norm_eps: added to the norms' variances.
        b: as of :class:`BcosOptions`; so are the following.
    """
    if antialias not in get_args(Antialias):
        raise BcosError(f"antialias must be one of {get_args(Antialias)}, got {antialias!r}")
    make_norm(norm, 2, affine=norm_affine)  # a wrong name fails here, once
    blurred = antialias == "blurpool"
    conv: Callable[..., nn.Module] = partial(BlurredConv2d if blurred else BcosConv2d, b=b, max_out=max_out)
    return Layers(
        conv=conv,
        norm=partial(make_norm, norm, affine=norm_affine, eps=norm_eps),
        act=nn.Identity,
        pool=blur_pool if blurred else nn.AvgPool2d,
        classifier=conv,
        logits=Logits(logit_bias, logit_temperature, prior),
    )


def plain_layers() -> Layers:
    """Convolution, batch norm, ReLU and max pooling, as in the original architectures."""
    conv = partial(nn.Conv2d, bias=False)
    return Layers(conv, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, classifier=nn.Conv2d, logits=Logits(bias=None))


def blur_pool(_kernel_size: int, stride: int, _padding: int = 0) -> nn.Module:
    """Low-pass filter in the place of average pooling, so that strides leave no aliasing artefacts in explanations.

    It is binomial, of ``2 · stride - 1`` taps in each direction: ``[1, 2, 1] / 4`` for a stride of 2.

    Sources: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019; for B-cos networks:
    arXiv 2507.16761.
    """
    return low_pass(stride, stride)


def low_pass(scale: int, stride: int = 1) -> nn.Module:
    """Binomial filter of ``2 · scale - 1`` taps in each direction, against what a stride of `scale` would alias."""
    from timm.layers.blur_pool import BlurPool2d

    blur: nn.Module = BlurPool2d(filt_size=2 * scale - 1, stride=stride, pad_mode="replicate")
    return blur


class BlurredConv2d(BcosConv2d):
    """B-cos convolution at every position, low-pass filtered where it had a stride.

    Its parameters are those of the convolution without anti-aliasing, whose weights it takes. Arguments as
    for :class:`bcos_core.BcosConv2d`; the stride is one integer.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *args: Any, **options: Any
    ):
        super().__init__(in_channels, out_channels, kernel_size, 1, *args, **options)
        self.blur = nn.Identity() if stride == 1 else blur_pool(kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Transform, filter, subsample."""
        y: Tensor = self.blur(super().forward(x))
        return y


def stochastic_depth(rate: float) -> nn.Module:
    """Drop a residual branch for a whole sample with probability `rate` in training (Huang et al., 2016)."""
    return StochasticDepth(rate, "row") if rate else nn.Identity()
