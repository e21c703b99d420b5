"""Builders that the descriptions name: :func:`bcos_resnet` and :func:`plain_resnet`."""

import math
from typing import Literal

from bcos_core.errors import BcosError
from bcos_core.norms import Affine
from bcos_models.layers import bcos_layers, plain_layers
from bcos_models.resnet.blocks import BasicBlock, Block, Bottleneck
from bcos_models.resnet.network import ResNet

BlockName = Literal["basic", "bottleneck"]
_BLOCKS: dict[BlockName, Block] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def bcos_resnet(
    *,
    block: BlockName,
    depths: tuple[int, ...],
    num_classes: int,
    in_chans: int = 6,
    b: float = 2.0,
    max_out: int = 1,
    norm: str = "batch_uncentered",
    norm_affine: Affine = "linear",
    width: int = 64,
    groups: int = 1,
    base_width: int = 64,
    small_inputs: bool = False,
    drop_path: float = 0.0,
    logit_bias: float | Literal["auto"] | None = "auto",
    logit_temperature: float | None = None,
) -> ResNet:
    """B-cos ResNet; the arguments are those of :class:`ResNet` and of :func:`bcos_layers`.

    ``logit_bias="auto"`` is ``-ln(K-1)``: an untrained network gives every class the probability 1/K.

    Raises:
        BcosError: values that make no network.
    """
    _check(depths, num_classes, in_chans, width, drop_path)
    if logit_bias == "auto":
        logit_bias = -math.log(num_classes - 1) if num_classes > 1 else None
    return ResNet(
        _block(block),
        depths,
        bcos_layers(b=b, max_out=max_out, norm=norm, norm_affine=norm_affine),
        num_classes=num_classes,
        in_chans=in_chans,
        width=width,
        groups=groups,
        base_width=base_width,
        small_inputs=small_inputs,
        drop_path=drop_path,
        logit_bias=logit_bias,
        logit_temperature=logit_temperature,
    )


def plain_resnet(
    *,
    block: BlockName,
    depths: tuple[int, ...],
    num_classes: int,
    in_chans: int = 3,
    width: int = 64,
    groups: int = 1,
    base_width: int = 64,
    small_inputs: bool = False,
    drop_path: float = 0.0,
) -> ResNet:
    """Build the baseline: the same architecture with plain convolutions, batch norm, ReLU and max pooling.

    Raises:
        BcosError: values that make no network.
    """
    _check(depths, num_classes, in_chans, width, drop_path)
    return ResNet(
        _block(block),
        depths,
        plain_layers(),
        num_classes=num_classes,
        in_chans=in_chans,
        width=width,
        groups=groups,
        base_width=base_width,
        small_inputs=small_inputs,
        drop_path=drop_path,
        classifier_bias=True,
    )


def _block(name: BlockName) -> Block:
    if name not in _BLOCKS:
        raise BcosError(f"block must be one of {tuple(_BLOCKS)}, got {name!r}")
    return _BLOCKS[name]


def _check(depths: tuple[int, ...], num_classes: int, in_chans: int, width: int, drop_path: float) -> None:
    if not depths or min(depths) < 1:
        raise BcosError(f"depths must name at least one block for every stage, got {depths}")
    if min(num_classes, in_chans, width) < 1:
        raise BcosError(
            f"num_classes, in_chans and width must be at least 1, got {num_classes}, {in_chans} and {width}"
        )
    if not 0 <= drop_path < 1:
        raise BcosError(f"drop_path must be in [0, 1), got {drop_path}")
