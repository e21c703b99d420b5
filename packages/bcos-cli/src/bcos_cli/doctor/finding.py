"""The findings of a check, and the run that is checked. Imports no torch."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex
from bcos_cli.train.validation_split import Splits

Status = Literal["ok", "note", "problem"]
"""``note``: the run works, but its owner should know this; ``problem``: it must be fixed first."""


@dataclass(frozen=True)
class Finding:
    """One line of the result."""

    status: Status
    text: str
    """What was found; for a problem, also what to do."""
    check: str = ""


Findings = Iterator[Finding]


@dataclass(frozen=True)
class PlannedRun:
    """A run as ``bcos train`` would start it."""

    recipe: Recipe
    index: ShardIndex
    out: Path
    processes: int = 1
    hashes: bool = False
    """Read all shards and compare their SHA-256."""

    @property
    def data(self) -> str:
        """Folder or URL of the shards."""
        return self.recipe.data.location

    @functools.cached_property
    def splits(self) -> Splits:
        """What is trained on, what chooses, and what is scored in the end."""
        return Splits.of(self.recipe.data, self.index)


ok, note, problem = (functools.partial(Finding, status) for status in get_args(Status))


def gigabytes(size: float) -> str:
    """Return a size as ``1.2 GB``, or in MB if it is smaller than one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
