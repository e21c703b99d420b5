"""Recipes: YAML files that say all a training run depends on, validated by pydantic. Imports no torch."""

from bcos_cli.config.data import Augment, Data, RandAugment
from bcos_cli.config.evaluation import Evaluation
from bcos_cli.config.load import dump_recipe, load_recipe, override, resolve, validate_recipe
from bcos_cli.config.model import Annealing, Model
from bcos_cli.config.optimization import Ema, GradientClipping, Mixing, Optimizer, Schedule
from bcos_cli.config.recipe import Recipe
from bcos_cli.config.train import Distillation, EarlyStopping, Train

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
    "RandAugment",
    "Recipe",
    "Schedule",
    "Train",
    "dump_recipe",
    "load_recipe",
    "override",
    "resolve",
    "validate_recipe",
]
