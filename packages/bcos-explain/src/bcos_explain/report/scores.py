"""Scores of explainers under one metric, and how sure their means are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bcos_core import BcosError


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """Scores of one metric for each explainer, shown as box plots beside their means.

    Raises:
        BcosError: infinite scores, a group below 1, or scores that do not make whole groups.
    """

    title: str
    scores: Mapping[str, Sequence[float]]
    """By explainer, in the order in which they are shown; NaN where the metric is undefined. Explainers without any
    score that is defined are left out."""
    description: str = ""
    """A paragraph: what is measured, and what is good."""
    chance: float | None = None
    """Score of an explanation that says nothing; drawn as a line."""
    best: Literal["high", "low"] | None = "high"
    """Which mean is the best; None for none."""
    limits: tuple[float, float] | None = None
    """Ends of the axis; None for those of the scores."""
    group: int = 1
    """Consecutive scores that depend on each other, such as the n² cells of a grid; resampled together."""
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What explainers said of their own maps, by explainer; shown below the table."""

    def __post_init__(self) -> None:
        if self.group < 1:
            raise BcosError(f"group must be at least 1, got {self.group}; use 1 for scores that are independent")
        for name, values in self.scores.items():
            if np.isinf(np.asarray(values, dtype=np.float64)).any():
                raise BcosError(
                    f"scores of {name!r} under {self.title!r} must not be infinite; use NaN where it is undefined"
                )
            if len(values) % self.group:
                raise BcosError(
                    f"{name!r} has {len(values)} scores under {self.title!r}, which are no whole groups of "
                    f"{self.group}; give group=1 for scores that are independent"
                )
