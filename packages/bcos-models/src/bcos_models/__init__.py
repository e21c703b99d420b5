"""B-cos architecture families, found through a plugin registry. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from bcos_models.hookspecs import hookimpl
    from bcos_models.hub import from_pretrained, push_to_hub, save_pretrained
    from bcos_models.registry import create_model, get_spec, list_models, model_specs
    from bcos_models.spec import Checkpoint, InputSpec, ModelConfig, ModelSpec
    from bcos_models.transforms import InferenceTransform
    from bcos_models.weights import load_weights, save_weights

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "spec",
    "InferenceTransform": "transforms",
    "InputSpec": "spec",
    "ModelConfig": "spec",
    "ModelSpec": "spec",
    "create_model": "registry",
    "from_pretrained": "hub",
    "get_spec": "registry",
    "hookimpl": "hookspecs",
    "list_models": "registry",
    "load_weights": "weights",
    "model_specs": "registry",
    "push_to_hub": "hub",
    "save_pretrained": "hub",
    "save_weights": "weights",
}

__all__ = [
    "Checkpoint",
    "InferenceTransform",
    "InputSpec",
    "ModelConfig",
    "ModelSpec",
    "create_model",
    "from_pretrained",
    "get_spec",
    "hookimpl",
    "list_models",
    "load_weights",
    "model_specs",
    "push_to_hub",
    "save_pretrained",
    "save_weights",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


wrapt.register_post_import_hook("bcos_models.timm_models:register", "timm.models")
