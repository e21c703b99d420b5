"""The images that a network was trained with, as it describes them."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from bcos_models.model_config import ModelConfig
from bcos_models.spec import IMAGENET_STANDARDIZED, InputSpec, Interpolation


def input_of(network: nn.Module) -> InputSpec:
    """Return size, mean and standard deviation of a network of timm or of ours; ImageNet's for others."""
    made: Any = getattr(network, "bcos_config", None)
    if isinstance(made, ModelConfig):
        return made.input
    cfg: Any = getattr(network, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping):
        return IMAGENET_STANDARDIZED
    return timm_input(cfg, getattr(getattr(network, "patch_embed", None), "img_size", None))


def timm_input(cfg: Mapping[str, Any], built_for: tuple[int, int] | None = None) -> InputSpec:
    """Read timm's ``pretrained_cfg`` of a network, and the height and width that it was built for if others."""
    from timm.data import resolve_data_config  # type: ignore[attr-defined] # reason: timm exports implicitly

    data = resolve_data_config({}, pretrained_cfg=dict(cfg))  # type: ignore[no-untyped-call] # reason: untyped in timm
    size = int(built_for[-1] if built_for else data["input_size"][-1])
    interpolation: Interpolation = "bicubic" if data["interpolation"] == "bicubic" else "bilinear"
    return InputSpec(
        size=size,
        channels=int(data["input_size"][0]),
        encoding="standardize",
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=math.floor(size / data["crop_pct"]),
        interpolation=interpolation,
    )
