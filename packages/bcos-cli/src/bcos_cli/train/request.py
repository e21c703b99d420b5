"""What ``bcos train`` was asked for: the recipe, the folder, and whether a run is continued. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bcos_cli.config import Recipe, load_recipe
from bcos_cli.config.train import Precision
from bcos_core.errors import BcosError

FINETUNE = "finetune"
"""The recipe for networks that are there already."""
RUNS = Path("runs")


@dataclass(frozen=True)
class TrainRequest:
    """Arguments and options of the command."""

    recipe: str | None
    data: str | None
    overrides: list[str]
    start: str | None
    head_only: bool
    classes: int | None
    out: Path | None
    resume: bool
    auto_resume: bool


@dataclass(frozen=True)
class ResolvedRequest:
    """What is to be done."""

    recipe: Recipe
    folder: Path
    resume: bool


def resolve_request(request: TrainRequest) -> ResolvedRequest:
    """Find recipe and folder.

    Raises:
        BcosError: neither a recipe nor a network or run to start from, or data of other classes than expected.
    """
    name = request.recipe or (FINETUNE if request.start is not None else None)
    if name is None and request.out is None:
        raise BcosError(
            "there is no recipe; give one that bcos recipes lists, a network with --from, or a run with --resume --out"
        )
    folder = request.out or RUNS / Path(name or "").stem
    config = folder / "config.yaml"
    is_there = config.exists()
    if name is None:
        if not is_there or not (request.resume or request.auto_resume):
            raise BcosError(f"there is no run in {str(folder)!r} to resume; give a recipe that bcos recipes lists")
        name = str(config)
    recipe = load_recipe(name, [*_of_options(request), *request.overrides], data=request.data)
    recipe = with_accelerate(recipe, os.environ)
    if request.classes is not None:
        _check_classes(recipe, request.classes)
    return ResolvedRequest(recipe, folder, request.resume or (request.auto_resume and is_there))


def with_accelerate(recipe: Recipe, environment: Mapping[str, str]) -> Recipe:
    """Take over the precision that ``accelerate launch`` was configured with, where the recipe has none.

    Raises:
        BcosError: it is another one than the recipe's, or one that we do not know; or Accelerate is to compile.
    """
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise BcosError(
            f"Accelerate's configuration has the dynamo backend {backend}; take it out there, and use "
            "train.compile=whole or regional"
        )
    asked, own = environment.get("ACCELERATE_MIXED_PRECISION", "no"), recipe.train.precision
    if asked in ("no", own):
        return recipe
    if own != "no" or asked not in get_args(Precision):
        raise BcosError(
            f"Accelerate's configuration has mixed_precision={asked}, the recipe train.precision={own}; make them agree"
        )
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": asked})})


def _of_options(request: TrainRequest) -> list[str]:
    overrides = []
    if request.start is not None:
        overrides.append(f"model.start={request.start}")
    if request.head_only:
        overrides.append("model.train=head")
    return overrides


def _check_classes(recipe: Recipe, wanted: int) -> None:
    from bcos_cli.data.index import load_index

    if recipe.data.path is None:
        raise BcosError("there are no data to train on; give a folder of shards with --data")
    found = len(load_index(recipe.data.path).classes)
    if found != wanted:
        raise BcosError(
            f"--classes {wanted} was given, the shards at {recipe.data.path!r} have {found}; "
            "give other shards, or leave out --classes: it follows from the data"
        )
