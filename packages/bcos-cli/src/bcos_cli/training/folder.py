"""The folder of a run."""

import json
from pathlib import Path
from typing import Any

from bcos_cli.config import Recipe, dump_recipe, load_recipe
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_models.weights import WEIGHTS_NAME


class RunFolder:
    """Paths of a run, and its small files.

    ``config.yaml`` (the complete recipe), ``metrics.jsonl`` (a line an epoch), ``checkpoints/``,
    ``model.safetensors``, ``tensorboard/``, ``evaluation.json``, ``report.html``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.weights = path / WEIGHTS_NAME
        self.tensorboard = path / "tensorboard"
        self.evaluation = path / "evaluation.json"
        self.report = path / "report.html"

    def start(self, recipe: Recipe) -> None:
        """Make the folder for a new run.

        Raises:
            BcosError: there is something in it.
        """
        if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise BcosError(
                f"{str(self.path)!r} is not empty; continue that run with --resume, or choose another folder with --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, dump_recipe(recipe))

    def check_same(self, recipe: Recipe) -> None:
        """Check that a run to be resumed had this recipe.

        Raises:
            BcosError: no run here, or one with another recipe.
        """
        if not self.config.exists():
            raise BcosError(f"there is no run in {str(self.path)!r} to resume; leave out --resume")
        before = load_recipe(str(self.config))
        if before != recipe:
            changed = _differences(before.model_dump(), recipe.model_dump())
            raise BcosError(
                f"the run in {str(self.path)!r} has another recipe ({', '.join(changed[:4])}); "
                "resume it with the same one, or choose another folder with --out"
            )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return one dictionary for each epoch."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]  # what follows the last line break was cut off by a crash

    def keep_metrics(self, epochs: int) -> None:
        """Drop the lines of epochs after the first `epochs`, which a resumed run will write again."""
        kept = [m for m in self.read_metrics() if m["epoch"] <= epochs]
        write_atomically(self.metrics, "".join(json.dumps(m) + "\n" for m in kept))

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append the line of an epoch."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(values) + "\n")


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys with different values, and both values."""
    found = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}: {left} there, {right} here")
    return found
