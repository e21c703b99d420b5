"""Arguments of ``bcos train``: the recipe, the folder of the run, and whether it is resumed. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bcos_cli.config import Recipe, Train, load_recipe
from bcos_cli.config.train import Precision
from bcos_cli.data.data_set import packed_data_set
from bcos_cli.file_names import CONFIG_NAME
from bcos_core.errors import BcosError

FINETUNE = "finetune"
"""The recipe for networks that exist already."""
RUNS = Path("runs")


@dataclass(frozen=True)
class TrainArguments:
    """What the command line asks for, the recipe's values resolved."""

    recipe: Recipe
    folder: Path
    resume: bool


def resolve_arguments(
    recipe: str | None,
    data: str | None,
    overrides: list[str] | None,
    start: str | None,
    head_only: bool,
    classes: int | None,
    out: Path | None,
    *,
    weights: str | None = None,
    resume: bool = False,
    auto_resume: bool = False,
) -> TrainArguments:
    """Find recipe and folder; the arguments are those of the command.

    Raises:
        BcosError: neither a recipe nor a network or run to start from, or data of other classes than expected.
    """
    name = recipe or (FINETUNE if start is not None else None)
    if name is None and out is None:
        raise BcosError(
            "there is no recipe; give one that bcos recipes lists, a network with --from, or a run with --resume --out"
        )
    folder = out or RUNS / Path(name or "").stem
    config = folder / CONFIG_NAME
    is_there = config.exists()
    if name is None:
        if not is_there or not (resume or auto_resume):
            raise BcosError(f"there is no run in {str(folder)!r} to resume; give a recipe that bcos recipes lists")
        name = str(config)
    options = {"model.start": start, "model.weights": weights, "model.train": "head" if head_only else None}
    given = {key: value for key, value in options.items() if value is not None}
    found = load_recipe(name, overrides, data=data, given=given)  # a mistake is told before anything is packed
    if data is not None:
        found = found.model_copy(update={"data": found.data.model_copy(update={"path": packed_data_set(data)})})
    found = found.model_copy(update={"train": with_accelerate(found.train, os.environ)})
    if classes is not None:
        _check_classes(found.data.location, classes)
    return TrainArguments(found, folder, resume or (auto_resume and is_there))


def with_accelerate(train: Train, environment: Mapping[str, str]) -> Train:
    """Take over the precision that ``accelerate launch`` was configured with, where the recipe has none.

    Raises:
        BcosError: it is another one than the recipe's, or an unknown one; or Accelerate is to compile.
    """
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise BcosError(
            f"Accelerate's configuration has the dynamo backend {backend}; take it out there, and use "
            "train.compile=auto"
        )
    asked, own = environment.get("ACCELERATE_MIXED_PRECISION", "no"), train.precision
    if asked in ("no", own):
        return train
    if own != "no" or asked not in get_args(Precision):
        raise BcosError(
            f"Accelerate's configuration has mixed_precision={asked}, the recipe train.precision={own}; make them agree"
        )
    return train.model_copy(update={"precision": asked})


def _check_classes(data: str, expected: int) -> None:
    from bcos_cli.data.index import load_index

    found = len(load_index(data).classes)
    if found != expected:
        raise BcosError(
            f"--classes {expected} was given, the shards at {data!r} have {found}; "
            "give other shards, or leave out --classes: it follows from the data"
        )
