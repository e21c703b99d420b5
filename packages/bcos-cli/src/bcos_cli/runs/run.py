"""A run, as its folder describes it. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bcos_cli.config.recipe_layers import read_yaml
from bcos_cli.config.versions import read_versions
from bcos_cli.train.best_epoch import accuracy_of, measure_of, role_of
from bcos_cli.train.run_folder import RunFolder
from bcos_core.errors import BcosError, shown
from bcos_core.text import parse_json, read_text

State = Literal["finished", "running", "interrupted"]


@dataclass(frozen=True)
class Run:
    """A run's recipe, epochs and scores."""

    folder: Path
    recipe: dict[str, Any]
    """As it was written, perhaps by another version of bcos."""
    epochs: list[dict[str, Any]]
    """Lines of ``metrics.jsonl``."""
    scores: dict[str, float]
    """``metrics`` of ``evaluation.json``; empty before there is one."""
    versions: dict[str, str]
    """Of packages, by their names; empty for a run of an older version of bcos."""
    state: State

    @property
    def model(self) -> str:
        """Name of the network, or what its training starts from."""
        model = self.recipe.get("model", {})
        return str(model.get("name") or model.get("start") or "?")

    @property
    def max_epochs(self) -> int:
        """Epochs that the recipe asks for."""
        return int(self.recipe.get("train", {}).get("epochs", 0))

    @property
    def measure(self) -> str:
        """Name of the accuracy by which its epochs are compared."""
        return measure_of(self.epochs[-1]) if self.epochs else "top1"

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each epoch; of the averaged weights, where there are any."""
        return [accuracy_of(line) for line in self.epochs]

    @property
    def last(self) -> float | None:
        """Accuracy of the last epoch."""
        return self.accuracies[-1] if self.epochs else None

    @property
    def best(self) -> float | None:
        """Accuracy of the best epoch; None where epochs were scored on test images, which choose nothing."""
        return max((accuracy_of(line) for line in self.epochs if role_of(line) == "val"), default=None)

    @property
    def scored(self) -> str | None:
        """The images that `best` and `last` are of: a split or a part of one; older versions did not name it."""
        return str(self.epochs[-1].get("scored") or role_of(self.epochs[-1])) if self.epochs else None

    @property
    def minutes(self) -> float:
        """Duration of the training."""
        return float(sum(line.get("seconds", 0) for line in self.epochs)) / 60

    @property
    def changed(self) -> float:
        """When it last wrote its recipe, an epoch or weights, in seconds since 1970."""
        folder = RunFolder(self.folder)
        return max(p.stat().st_mtime for p in (folder.config, folder.metrics, folder.weights) if p.exists())


def read_run(path: Path) -> Run:
    """Read the folder of a run.

    Raises:
        BcosError: no run there, or one with files that cannot be read.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise BcosError(
            f"there is no run in {str(path)!r} (no {folder.config.name}); bcos runs list shows the runs there are"
        )
    try:
        recipe = _sections(read_yaml(folder.config, folder.config.name))
        epochs = folder.read_metrics()
        for line in epochs:
            measure_of(line)
        scores = _scores(folder.evaluation) if folder.evaluation.exists() else {}
        versions = read_versions(path)
    except BcosError as reason:
        raise BcosError(f"the files of the run {str(path)!r} cannot be read: {reason}") from reason
    state: State = "finished" if folder.weights.exists() else "interrupted"
    return Run(path, recipe, epochs, scores, versions, "running" if folder.is_in_use() else state)


def _sections(recipe: dict[str, Any]) -> dict[str, Any]:
    """Check the sections of a recipe that are shown."""
    for name in ("model", "train"):
        if not isinstance(recipe.get(name, {}), dict):
            raise BcosError(f"{name} must be a section, got {shown(recipe[name])}")
    epochs = recipe.get("train", {}).get("epochs", 0)
    if type(epochs) is not int:
        raise BcosError(f"train.epochs must be a whole number, got {shown(epochs)}")
    return recipe


def _scores(evaluation: Path) -> dict[str, float]:
    """``metrics`` of ``evaluation.json``; None for a mean that is not a number."""
    values = parse_json(read_text(evaluation), finite=False)
    scores = values.get("metrics") if isinstance(values, dict) else None
    if not isinstance(scores, dict) or not all(v is None or isinstance(v, int | float) for v in scores.values()):
        raise BcosError(f"{evaluation.name} must hold numbers by name in metrics, got {shown(scores)}")
    return scores


def find_runs(root: Path) -> list[Path]:
    """Return the folders of runs at or below `root`, by name; runs within runs are not looked for.

    Raises:
        BcosError: no such folder.
    """
    if not root.is_dir():
        raise BcosError(f"there is no folder {str(root)!r}; give the folder that holds the runs")
    if RunFolder(root).config.is_file():
        return [root]
    return [run for below in sorted(p for p in root.iterdir() if p.is_dir()) for run in find_runs(below)]
