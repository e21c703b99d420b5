"""The two kinds of layers that transformers are built from: B-cos, and plain for the baselines."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Unpack, get_args

from torch import nn

from bcos_core import BcosLinear, BcosSelfAttention, SelfAttention
from bcos_core.errors import BcosError
from bcos_core.norms import LayerNorm, LayerNormUncentered
from bcos_models.layers import BcosOptions, Layers, bcos_layers, plain_layers

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
    """Layers of the convolutional stem, and of the logits."""


def bcos_token_layers(norm: TokenNorm, **options: Unpack[BcosOptions]) -> TokenLayers:
    """B-cos layers without activation; query, key and value stay linear (TPAMI 2024, section 3.5).

    Args:
        norm: of tokens, and with one group in the convolutional stem.
        options: as for :func:`bcos_layers`.
    """
    if norm not in get_args(TokenNorm):
        raise BcosError(f"norm must be one of {get_args(TokenNorm)} for a transformer, got {norm!r}")
    b, max_out, affine = options.get("b", 2.0), options.get("max_out", 1), options.get("norm_affine", "linear")
    return TokenLayers(
        linear=partial(BcosLinear, b=b, max_out=max_out),
        attention=partial(BcosSelfAttention, b=b, max_out=max_out),
        norm=partial(
            LayerNorm if norm == "layer" else LayerNormUncentered, affine=affine != "plain", bias=affine == "affine"
        ),
        act=nn.Identity,
        stem=bcos_layers(norm, **options),
    )


def plain_token_layers() -> TokenLayers:
    """Linear layers and convolutions with bias, GELU, layer norm."""
    norm = partial(nn.GroupNorm, 1)
    stem = replace(plain_layers(), conv=nn.Conv2d, norm=norm, act=nn.GELU, pool=nn.AvgPool2d)
    return TokenLayers(linear=nn.Linear, attention=SelfAttention, norm=nn.LayerNorm, act=nn.GELU, stem=stem)
