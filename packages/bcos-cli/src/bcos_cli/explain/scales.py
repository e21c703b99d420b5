"""Scales of colour and opacity, for one image or for many."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_cli.explain.answers import EXACT, Subject
from bcos_explain.render import percentile_of_many


@dataclass(frozen=True)
class Scales:
    """What colours and opacities stand for."""

    limits: dict[str, float]
    """Contribution at the ends of the colours, by method."""
    alpha: float | None
    """Norm of W at which its picture is opaque; None where nothing contributes."""


class Shelf:
    """Subjects whose arrays lie on disk, so that any number of them can wait for a common scale.

    Args:
        folder: for temporary files; there, and the caller's to remove.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stored: list[Subject] = []

    def add(self, subject: Subject) -> None:
        """Store a subject."""
        np.savez(self._folder / f"{len(self._stored)}.npz", **subject.arrays)  # type: ignore[arg-type] # reason: numpy's stub takes the names for its own options
        self._stored.append(replace(subject, arrays={}))

    def __iter__(self) -> Iterator[Subject]:
        """All subjects in order, each with its arrays."""
        for i, subject in enumerate(self._stored):
            with np.load(self._folder / f"{i}.npz") as arrays:
                yield replace(subject, arrays=dict(arrays))

    @property
    def numbers(self) -> list[Subject]:
        """All subjects without their arrays."""
        return self._stored

    def __len__(self) -> int:
        return len(self._stored)


def scales_of(subjects: Iterable[Subject]) -> Scales:
    """One scale for each method over all subjects, and one for the opacity of W.

    Args:
        subjects: iterated more than once.
    """
    methods = list(dict.fromkeys(answer.method for subject in subjects for answer in subject.answers))
    limits = {method: _percentile(subjects, "map", method) or 1.0 for method in methods}
    return Scales(limits, _percentile(subjects, "strength", EXACT) or None)


def _percentile(subjects: Iterable[Subject], kind: str, method: str) -> float:
    def arrays() -> Iterator[NDArray[Any]]:
        for subject in subjects:
            for i, answer in enumerate(subject.answers):
                name = f"{kind}.{i}"
                if name in subject.arrays and answer.method == method:
                    yield np.abs(subject.arrays[name])

    count = sum(array.size for array in arrays())
    return percentile_of_many(arrays(), count) if count else 0.0
