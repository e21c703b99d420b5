"""B-cos architecture families, found through a plugin registry. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bcos_models.hookspecs import hookimpl
    from bcos_models.registry import create_model, get_spec, list_models, model_specs
    from bcos_models.spec import InputSpec, ModelSpec
    from bcos_models.weights import load_weights, save_weights

__version__ = "0.1.0"

_HOMES = {
    "InputSpec": "spec",
    "ModelSpec": "spec",
    "create_model": "registry",
    "get_spec": "registry",
    "hookimpl": "hookspecs",
    "list_models": "registry",
    "load_weights": "weights",
    "model_specs": "registry",
    "save_weights": "weights",
}

__all__ = [
    "InputSpec",
    "ModelSpec",
    "create_model",
    "get_spec",
    "hookimpl",
    "list_models",
    "load_weights",
    "model_specs",
    "save_weights",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
