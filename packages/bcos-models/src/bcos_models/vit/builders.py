"""Builders that the descriptions name: :func:`bcos_vit` and :func:`plain_vit`."""

from bcos_core.norms import Affine
from bcos_models.classifier import NO_LOGIT_LAYER, LogitBias, Logits
from bcos_models.layers import Antialias
from bcos_models.vit.layers import TokenNorm, bcos_token_layers, plain_token_layers
from bcos_models.vit.network import VisionTransformer


def bcos_vit(
    *,
    dim: int,
    depth: int,
    heads: int,
    num_classes: int,
    in_chans: int = 6,
    patch: int = 16,
    stem: tuple[int, ...] = (),
    b: float = 2.0,
    max_out: int = 1,
    norm: TokenNorm = "layer",
    norm_affine: Affine = "linear",
    drop_path: float = 0.0,
    antialias: Antialias = "none",
    logit_bias: LogitBias = "auto",
    logit_temperature: float | None = None,
    prior: float | None = None,
) -> VisionTransformer:
    """B-cos ViT; arguments as for :class:`VisionTransformer`, :func:`bcos_token_layers` and :class:`Logits`.

    Raises:
        BcosError: values that cannot make a network.
    """
    return VisionTransformer(
        dim=dim,
        depth=depth,
        heads=heads,
        layers=bcos_token_layers(b=b, max_out=max_out, norm=norm, norm_affine=norm_affine, antialias=antialias),
        num_classes=num_classes,
        in_chans=in_chans,
        patch=patch,
        stem=stem,
        drop_path=drop_path,
        logits=Logits(logit_bias, logit_temperature, prior),
    )


def plain_vit(
    *,
    dim: int,
    depth: int,
    heads: int,
    num_classes: int,
    in_chans: int = 3,
    patch: int = 16,
    stem: tuple[int, ...] = (),
    drop_path: float = 0.0,
) -> VisionTransformer:
    """Build the baseline: the same architecture with plain linear layers, GELU and biases.

    Raises:
        BcosError: values that cannot make a network.
    """
    return VisionTransformer(
        dim=dim,
        depth=depth,
        heads=heads,
        layers=plain_token_layers(),
        num_classes=num_classes,
        in_chans=in_chans,
        patch=patch,
        stem=stem,
        drop_path=drop_path,
        logits=NO_LOGIT_LAYER,
    )
