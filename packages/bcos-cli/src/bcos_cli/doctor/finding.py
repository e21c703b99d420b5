"""What a check has found. Imports no torch."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex
from bcos_cli.train.validation_split import Splits

Status = Literal["ok", "note", "problem"]
"""``note``: the run works, but its owner may not know this."""


@dataclass(frozen=True)
class Finding:
    """One line of the result."""

    status: Status
    text: str
    """What was found; of a problem, what to do too."""
    check: str = ""


Findings = Iterator[Finding]


@dataclass(frozen=True)
class PlannedRun:
    """What is examined: a run as ``bcos train`` would start it."""

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


def ok(text: str) -> Finding:
    """Nothing to worry about."""
    return Finding("ok", text)


def note(text: str) -> Finding:
    """Something to know."""
    return Finding("note", text)


def problem(text: str) -> Finding:
    """Something to mend first."""
    return Finding("problem", text)


def some(names: list[str], most: int = 4) -> str:
    """The first of `names`, and how many there are besides."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def gigabytes(size: float) -> str:
    """``1.2 GB``; of less, MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
