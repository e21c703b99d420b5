"""Converted networks by name, and our rules of conversion, registered as those of any plugin. Imports no torch."""

from typing import TYPE_CHECKING

from bcos_models.conversion import Conversion, ConversionOptions
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


@hookimpl
def bcos_models_find_spec(name: str) -> ModelSpec | None:
    """Describe ``timm/NAME``, ``torchvision/NAME`` and ``bcosified/NAME``."""
    if "/" not in name:
        return None
    from bcos_models.convert.origins import find_spec

    return find_spec(name)


@hookimpl
def bcos_models_convert_layer(layer: "nn.Module", options: ConversionOptions) -> Conversion | None:
    """Convert the layers of PyTorch and timm."""
    from bcos_models.convert.rules import convert_layer

    return convert_layer(layer, options)
