"""B-cos architecture families, found through a plugin registry. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from bcos_models.conversion import Conversion as Conversion
    from bcos_models.conversion import ConversionOptions as ConversionOptions
    from bcos_models.conversion import ConversionReport as ConversionReport
    from bcos_models.convert.annealing import recalibrate_norms as recalibrate_norms
    from bcos_models.convert.annealing import scale_biases as scale_biases
    from bcos_models.convert.annealing import set_exponent as set_exponent
    from bcos_models.convert.bcosify import bcosify as bcosify
    from bcos_models.hookspecs import hookimpl as hookimpl
    from bcos_models.hub import from_pretrained as from_pretrained
    from bcos_models.hub import push_to_hub as push_to_hub
    from bcos_models.hub import save_pretrained as save_pretrained
    from bcos_models.model_config import ModelConfig as ModelConfig
    from bcos_models.registry import create_model as create_model
    from bcos_models.registry import get_spec as get_spec
    from bcos_models.registry import is_model as is_model
    from bcos_models.registry import list_models as list_models
    from bcos_models.registry import model_specs as model_specs
    from bcos_models.spec import Checkpoint as Checkpoint
    from bcos_models.spec import InputSpec as InputSpec
    from bcos_models.spec import ModelSpec as ModelSpec
    from bcos_models.trained_model import TrainedModel as TrainedModel
    from bcos_models.trained_model import load_trained as load_trained
    from bcos_models.transforms import InferenceTransform as InferenceTransform
    from bcos_models.weights import load_weights as load_weights
    from bcos_models.weights import save_weights as save_weights

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

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


wrapt.register_post_import_hook("bcos_models.timm_models:register", "timm.models")
