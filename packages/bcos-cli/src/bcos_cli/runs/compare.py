"""Comparison of runs: their recipes and scores side by side. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from bcos_cli.config import Recipe
from bcos_cli.config.comparison import flat
from bcos_cli.runs.run import Run

Cells = list[Any]
"""A value for each run; None where it has none."""


def recipe_rows(runs: Sequence[Run]) -> dict[str, Cells]:
    """Return the recipe keys in which the runs differ, with the value of each run."""
    usual = flat(defaults())  # for keys that an older version did not have
    whole = [usual | flat(run.recipe) for run in runs]
    keys = sorted({key for values in whole for key in values})
    rows = {key: [values.get(key) for values in whole] for key in keys}
    return {key: cells for key, cells in rows.items() if any(cell != cells[0] for cell in cells)}


def defaults() -> dict[str, Any]:
    """Return the values of a recipe that sets only what it must."""
    return Recipe.model_validate({"model": {"name": "?"}, "train": {"epochs": 1}}).model_dump(mode="json")


def score_rows(runs: Sequence[Run]) -> dict[str, Cells]:
    """Return accuracy, loss, time and all scores of ``evaluation.json``, with the value of each run."""
    rows: dict[str, Cells] = {
        "epochs": [len(run.epochs) for run in runs],
        "best accuracy": [run.best for run in runs],
        "last accuracy": [run.last for run in runs],
        "train_loss": [run.epochs[-1].get("train_loss") if run.epochs else None for run in runs],
        "minutes": [run.minutes for run in runs],
        "images_per_second": [_mean([line.get("images_per_second") for line in run.epochs]) for run in runs],
    }
    for name in dict.fromkeys(name for run in runs for name in run.scores):
        rows[name] = [run.scores.get(name) for run in runs]
    return rows


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
