"""Comparison of runs: their recipes and scores side by side, their learning curves in one plot. Imports no torch."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcos_cli.config import Recipe
from bcos_cli.config.comparison import flat
from bcos_cli.runs.run import Run
from bcos_cli.train.best_epoch import loss_of, role_of
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically

Cells = list[Any]
"""A value for each run; None where it has none."""
SUFFIXES = (".png", ".svg", ".pdf")
_MEASURES = {"top1": "top-1 accuracy", "map": "mean average precision", "cosine": "cosine to the teacher"}


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


def plot(runs: Sequence[Run], names: Sequence[str], path: Path) -> None:
    """Draw loss and accuracy over epochs, each run in a colour of its own, the training loss dashed.

    Raises:
        BcosError: no run has an epoch yet.
    """
    if not any(run.epochs for run in runs):
        raise BcosError("no epoch of these runs is finished; there is nothing to plot yet")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(runs):
        colour = f"C{number % 10}"
        epochs = [line["epoch"] for line in run.epochs]
        style = {"color": colour, "marker": "o", "markersize": 3 if len(epochs) > 1 else 6, "linewidth": 1.5}
        left.plot(epochs, [line.get("train_loss") for line in run.epochs], alpha=0.6, **style | {"linestyle": "--"})
        left.plot(epochs, [loss_of(line) for line in run.epochs], **style)
        right.plot(epochs, run.accuracies, label=names[number], **style)
    left.plot([], [], "k--", alpha=0.6, label="training")
    left.plot([], [], "k-", label=" or ".join(sorted({role_of(line) for run in runs for line in run.epochs})))
    left.set_ylabel("loss")
    right.set_ylabel(" / ".join(dict.fromkeys(_MEASURES[run.measure] for run in runs if run.epochs)))
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(runs), 4), frameon=False
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, buffer.getvalue())
