"""The two kinds of layers that transformers are built from: B-cos, and plain for the baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch import nn

from bcos_core import BcosLinear, BcosSelfAttention, SelfAttention
from bcos_core.errors import BcosError
from bcos_core.norms import Affine, LayerNorm, LayerNormUncentered
from bcos_models.layers import Antialias, Layers, bcos_layers

TokenNorm = Literal["layer", "layer_uncentered"]


@dataclass(frozen=True)
class TokenLayers:
    """Builders of the layers of a transformer."""

    linear: Callable[[int, int], nn.Module]
    """``(in_features, out_features)``"""
    attention: Callable[[int, int], nn.Module]
    """``(features, heads)``"""
    norm: Callable[[int], nn.Module]
    """``(features)``"""
    act: Callable[[], nn.Module]
    stem: Layers
    """Layers of the convolutional stem."""


def bcos_token_layers(
    *, b: float, max_out: int, norm: TokenNorm, norm_affine: Affine, antialias: Antialias
) -> TokenLayers:
    """B-cos layers without activation; query, key and value stay linear (TPAMI 2024, section 3.5).

    Args:
        norm: of tokens, and with one group in the convolutional stem.

    Raises:
        BcosError: an unknown norm or kind of parameters.
    """
    if norm not in get_args(TokenNorm):
        raise BcosError(f"norm must be one of {get_args(TokenNorm)} for a transformer, got {norm!r}")
    stem = bcos_layers(b=b, max_out=max_out, norm=norm, norm_affine=norm_affine, antialias=antialias)
    kind = LayerNorm if norm == "layer" else LayerNormUncentered
    return TokenLayers(
        linear=partial(BcosLinear, b=b, max_out=max_out),
        attention=partial(BcosSelfAttention, b=b, max_out=max_out),
        norm=partial(kind, affine=norm_affine != "plain", bias=norm_affine == "affine"),
        act=nn.Identity,
        stem=stem,
    )


def plain_token_layers() -> TokenLayers:
    """Linear layers and convolutions with bias, GELU, layer norm."""
    return TokenLayers(
        linear=nn.Linear,
        attention=SelfAttention,
        norm=nn.LayerNorm,
        act=nn.GELU,
        stem=Layers(conv=nn.Conv2d, norm=partial(nn.GroupNorm, 1), act=nn.GELU, pool=nn.AvgPool2d),
    )
