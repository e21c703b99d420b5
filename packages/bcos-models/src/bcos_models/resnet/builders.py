"""Builders that the descriptions name: :func:`bcos_resnet` and :func:`plain_resnet`."""

from typing import Literal

from bcos_core.errors import BcosError
from bcos_core.norms import Affine
from bcos_models.classifier import NO_LOGIT_LAYER, LogitBias, Logits
from bcos_models.layers import Antialias, bcos_layers, plain_layers
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
    antialias: Antialias = "none",
    logit_bias: LogitBias = "auto",
    logit_temperature: float | None = None,
    prior: float | None = None,
) -> ResNet:
    """B-cos ResNet; arguments as for :class:`ResNet`, :func:`bcos_layers` and :class:`Logits`.

    Raises:
        BcosError: values that cannot make a network.
    """
    return ResNet(
        _block(block),
        depths,
        bcos_layers(b=b, max_out=max_out, norm=norm, norm_affine=norm_affine, antialias=antialias),
        num_classes=num_classes,
        in_chans=in_chans,
        width=width,
        groups=groups,
        base_width=base_width,
        small_inputs=small_inputs,
        drop_path=drop_path,
        logits=Logits(logit_bias, logit_temperature, prior),
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
        BcosError: values that cannot make a network.
    """
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
        logits=NO_LOGIT_LAYER,
    )


def _block(name: BlockName) -> Block:
    if name not in _BLOCKS:
        raise BcosError(f"block must be one of {tuple(_BLOCKS)}, got {name!r}")
    return _BLOCKS[name]
