"""The two kinds of layers that families are built from: B-cos, and plain for the baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from bcos_core import BcosConv2d
from bcos_core.norms import Affine, make_norm


@dataclass(frozen=True)
class Layers:
    """Builders of the layers of a CNN."""

    conv: Callable[..., nn.Module]
    """``(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)``, without bias."""
    norm: Callable[[int], nn.Module]
    """``(channels)``"""
    act: Callable[[], nn.Module]
    pool: Callable[..., nn.Module]
    """``(kernel_size, stride, padding)``"""


def bcos_layers(
    *, b: float = 2.0, max_out: int = 1, norm: str = "batch_uncentered", norm_affine: Affine = "linear"
) -> Layers:
    """B-cos convolutions, no activation, average pooling (Böhle et al., TPAMI 2024, section 3.3).

    Args:
        b: exponent B.
        max_out: MaxOut units.
        norm: a name that :func:`bcos_core.norms.make_norm` takes.
        norm_affine: the norms' parameters: ``"affine"``, ``"linear"`` or ``"plain"``.
    """
    make_norm(norm, 2, affine=norm_affine)  # a wrong name fails here, once
    return Layers(
        conv=partial(BcosConv2d, b=b, max_out=max_out),
        norm=partial(make_norm, norm, affine=norm_affine),
        act=nn.Identity,
        pool=nn.AvgPool2d,
    )


def plain_layers() -> Layers:
    """Convolution, batch norm, ReLU and max pooling, as in the original architectures."""
    return Layers(
        conv=partial(nn.Conv2d, bias=False),
        norm=nn.BatchNorm2d,
        act=partial(nn.ReLU, inplace=False),
        pool=nn.MaxPool2d,
    )
