"""B-cos architecture families, found through a plugin registry. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from bcos_models.conversion import Conversion, ConversionOptions, ConversionReport
    from bcos_models.convert.annealing import recalibrate_norms, scale_biases, set_exponent
    from bcos_models.convert.bcosify import bcosify
    from bcos_models.hookspecs import hookimpl
    from bcos_models.hub import from_pretrained, push_to_hub, save_pretrained
    from bcos_models.model_config import ModelConfig
    from bcos_models.registry import create_model, get_spec, is_model, list_models, model_specs
    from bcos_models.spec import Checkpoint, InputSpec, ModelSpec
    from bcos_models.trained_model import TrainedModel, load_trained
    from bcos_models.transforms import InferenceTransform
    from bcos_models.weights import load_weights, save_weights

__version__ = "0.1.0"

_HOMES = {
    name: module
    for module, names in {
        "convert.annealing": "recalibrate_norms scale_biases set_exponent",
        "convert.bcosify": "bcosify",
        "conversion": "Conversion ConversionOptions ConversionReport",
        "hookspecs": "hookimpl",
        "hub": "from_pretrained push_to_hub save_pretrained",
        "model_config": "ModelConfig",
        "registry": "create_model get_spec is_model list_models model_specs",
        "spec": "Checkpoint InputSpec ModelSpec",
        "trained_model": "TrainedModel load_trained",
        "transforms": "InferenceTransform",
        "weights": "load_weights save_weights",
    }.items()
    for name in names.split()
}
"""Module of each public name; it is imported when the name is used."""

__all__ = [
    "Checkpoint",
    "Conversion",
    "ConversionOptions",
    "ConversionReport",
    "InferenceTransform",
    "InputSpec",
    "ModelConfig",
    "ModelSpec",
    "TrainedModel",
    "bcosify",
    "create_model",
    "from_pretrained",
    "get_spec",
    "hookimpl",
    "is_model",
    "list_models",
    "load_trained",
    "load_weights",
    "model_specs",
    "push_to_hub",
    "recalibrate_norms",
    "save_pretrained",
    "save_weights",
    "scale_biases",
    "set_exponent",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


wrapt.register_post_import_hook("bcos_models.timm_models:register", "timm.models")
