"""Scores of explainers under one metric, and how sure their means are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError

LEVEL = 0.95
"""Probability that an interval should cover the mean."""
RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """Scores of one metric for each explainer, shown as box plots beside their means.

    Raises:
        BcosError: scores that are not finite, a group below 1, or scores that do not make whole groups.
    """

    title: str
    scores: Mapping[str, Sequence[float]]
    """By explainer, in the order in which they are shown; explainers without scores are left out."""
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

    def __post_init__(self) -> None:
        if self.group < 1:
            raise BcosError(f"group must be at least 1, got {self.group}; use 1 for scores that are independent")
        for name, values in self.scores.items():
            if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
                raise BcosError(f"scores of {name!r} under {self.title!r} must be finite; leave the others out")
            if len(values) % self.group:
                raise BcosError(
                    f"{name!r} has {len(values)} scores under {self.title!r}, which are no whole groups of "
                    f"{self.group}; give group=1 for scores that are independent"
                )


def bootstrap_interval(scores: NDArray[np.float64], *, group: int = 1) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, at the level ``LEVEL``, from ``RESAMPLES`` resamples.

    Args:
        scores: (G · group,); whole groups are resampled, as the scores of a group depend on each other.
        group: scores in a group.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    means = scores.reshape(-1, group).mean(1)  # (G,)
    drawn = np.random.default_rng(SEED).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.quantile(means[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
