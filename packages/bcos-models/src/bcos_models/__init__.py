"""B-cos architecture families, found through a plugin registry. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from bcos_models.convert.annealing import recalibrate_norms, scale_biases, set_exponent
    from bcos_models.convert.bcosify import bcosify
    from bcos_models.convert.options import Conversion, ConversionOptions, ConversionReport
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
    "Checkpoint": "spec",
    "Conversion": "convert.options",
    "ConversionOptions": "convert.options",
    "ConversionReport": "convert.options",
    "InferenceTransform": "transforms",
    "InputSpec": "spec",
    "ModelConfig": "model_config",
    "ModelSpec": "spec",
    "TrainedModel": "trained_model",
    "bcosify": "convert.bcosify",
    "create_model": "registry",
    "from_pretrained": "hub",
    "get_spec": "registry",
    "is_model": "registry",
    "hookimpl": "hookspecs",
    "list_models": "registry",
    "load_trained": "trained_model",
    "load_weights": "weights",
    "model_specs": "registry",
    "push_to_hub": "hub",
    "recalibrate_norms": "convert.annealing",
    "save_pretrained": "hub",
    "save_weights": "weights",
    "scale_biases": "convert.annealing",
    "set_exponent": "convert.annealing",
}

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
