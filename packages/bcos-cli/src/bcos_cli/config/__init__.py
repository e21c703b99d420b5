"""Recipes: YAML files that say all a training run depends on, validated by pydantic. Imports no torch.

Names are imported when they are used: every command imports this package, and pydantic takes a while.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bcos_cli.config.data import Augment, Data
    from bcos_cli.config.load import dump_recipe, load_recipe, override, validate_recipe
    from bcos_cli.config.model import Annealing, Model
    from bcos_cli.config.optimization import Ema, GradientClipping, Mixing, Optimizer, Schedule
    from bcos_cli.config.recipe import Recipe
    from bcos_cli.config.train import Distillation, EarlyStopping, Evaluation, Train

__all__ = [
    "Annealing",
    "Augment",
    "Data",
    "Distillation",
    "EarlyStopping",
    "Ema",
    "Evaluation",
    "GradientClipping",
    "Mixing",
    "Model",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Train",
    "dump_recipe",
    "load_recipe",
    "override",
    "validate_recipe",
]

_FILES = ("recipe", "load", "model", "data", "optimization", "train")


def __getattr__(name: str) -> object:
    for file in _FILES if name in __all__ else ():
        found = getattr(import_module(f"{__name__}.{file}"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
