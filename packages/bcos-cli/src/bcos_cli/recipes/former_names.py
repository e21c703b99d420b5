"""Names of recipes before 0.2 that set only a model, whose own name is the recipe now. Imports no torch."""

import re
from typing import Any

from bcos_models import is_model

_BCOSIFIED = {
    "deit_small": "timm/deit_small_patch16_224",
    "deit_tiny": "timm/deit_tiny_patch16_224",
    "densenet121": "torchvision/densenet121",
    "resnet18": "torchvision/resnet18",
    "vit_base": "timm/vit_base_patch16_224",
}
_ABLATION = re.compile(
    r"(?P<model>cifar10_resnet\d+)"
    r"(?:_(?P<norm>none|(?:all|batch|group|instance|layer|position)(?:_uncentered)?))?"
    r"(?P<maxout>_maxout2)?"
)


def base_of_former(name: str) -> tuple[str, dict[str, Any]] | None:
    """Return the recipe that stands behind a former name, and options of its model; None for other names."""
    if name.startswith("imagenet_"):
        inner = name.removeprefix("imagenet_")
        model = _BCOSIFIED.get(inner.removeprefix("bcosify_")) if inner.startswith("bcosify_") else inner
        return (model, {}) if model and (model != inner or is_model(inner)) else None
    match = _ABLATION.fullmatch(name)
    if match is None or not is_model(match["model"]):
        return None
    options = {"norm": match["norm"]} if match["norm"] else {}
    return match["model"], options | ({"max_out": 2} if match["maxout"] else {})
