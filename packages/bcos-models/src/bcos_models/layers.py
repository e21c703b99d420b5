"""The two kinds of layers that families are built from: B-cos, and plain for the baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch import nn
from torchvision.ops import StochasticDepth

from bcos_core import BcosConv2d
from bcos_core.errors import BcosError
from bcos_core.norms import Affine, make_norm
from bcos_core.norms.factory import NORM_EPS

Antialias = Literal["none", "blurpool"]


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


def bcos_layers(
    *,
    b: float = 2.0,
    max_out: int = 1,
    norm: str = "batch_uncentered",
    norm_affine: Affine = "linear",
    norm_eps: float = NORM_EPS,
    antialias: Antialias = "none",
) -> Layers:
    """B-cos convolutions, no activation, average pooling (Böhle et al., TPAMI 2024, section 3.3).

    Args:
        b: exponent B.
        max_out: MaxOut units.
        norm: a name that :func:`bcos_core.norms.make_norm` takes.
        norm_affine: the norms' parameters: ``"affine"``, ``"linear"`` or ``"plain"``.
        norm_eps: added to the norms' variances.
        antialias: ``"blurpool"`` low-pass filters wherever the resolution is reduced.
    """
    if antialias not in get_args(Antialias):
        raise BcosError(f"antialias must be one of {get_args(Antialias)}, got {antialias!r}")
    make_norm(norm, 2, affine=norm_affine)  # a wrong name fails here, once
    conv: Callable[..., nn.Module] = partial(BcosConv2d, b=b, max_out=max_out)
    pool: Callable[..., nn.Module] = nn.AvgPool2d
    if antialias == "blurpool":
        from bcos_models.antialias import BlurredConv2d, blur_pool

        conv, pool = partial(BlurredConv2d, b=b, max_out=max_out), blur_pool
    return Layers(conv, partial(make_norm, norm, affine=norm_affine, eps=norm_eps), nn.Identity, pool)


def plain_layers() -> Layers:
    """Convolution, batch norm, ReLU and max pooling, as in the original architectures."""
    return Layers(
        conv=partial(nn.Conv2d, bias=False),
        norm=nn.BatchNorm2d,
        act=partial(nn.ReLU, inplace=False),
        pool=nn.MaxPool2d,
    )


def stochastic_depth(rate: float) -> nn.Module:
    """Drop a residual branch for a whole sample with probability `rate` in training (Huang et al., 2016)."""
    return StochasticDepth(rate, "row") if rate else nn.Identity()
