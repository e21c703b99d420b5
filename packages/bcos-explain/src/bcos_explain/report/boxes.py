"""Box plots as strips, one per table row, drawn in per cent of the width, so that they fit any screen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcos_explain.report.data import MetricScores

WHISKER = 1.5
"""Whiskers reach to the last score within this many interquartile ranges of the box (Tukey, 1977)."""
_TICKS = 4


@dataclass(frozen=True)
class Strip:
    """Positions of one box plot, in per cent of the axis."""

    low: float
    """End of the lower whisker."""
    first: float
    """First quartile."""
    median: float
    third: float
    high: float
    outliers: list[float]
    value: float
    """The mean, or the median where that is the metric's statistic."""
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """Scores of one explainer in numbers, and as a strip."""

    name: str
    value: float
    interval: tuple[float, float] | None
    """95 % bootstrap interval; None where there are too few scores for one."""
    std: float | None
    """Standard deviation of the scores; None for a single one."""
    count: int
    """Number of defined scores."""
    best: bool
    strip: Strip


@dataclass(frozen=True)
class Boxes:
    """All rows of a metric, with the axis that they share."""

    rows: list[Row]
    ticks: list[tuple[float, float]]
    """(position in per cent, value)."""
    chance: float | None
    """Position in per cent."""


def boxes(metric: MetricScores) -> Boxes:
    """Return rows, axis and chance of a metric; explainers without defined scores are left out."""
    results = {name: result for name, result in metric.results.items() if result.count}
    scores = {name: result.scores[~result.scores.isnan()].numpy() for name, result in results.items()}
    ticks = _ticks(metric, list(scores.values()))
    values = [result.value for result in results.values()]
    better = metric.higher_is_better
    best = None if better is None or len(values) < 2 else max(values) if better else min(values)
    rows = []
    for name, result in results.items():
        ends = result.bootstrap_interval()
        interval, std = None if math.isnan(ends[0]) else ends, None if math.isnan(result.std) else result.std
        strip = _strip(scores[name], result.value, interval, ticks)
        rows.append(Row(name, result.value, interval, std, result.count, result.value == best, strip))
    chance = None if metric.chance is None else _percent(metric.chance, ticks)
    return Boxes(rows, [(_percent(t, ticks), t) for t in ticks], chance)


def _ticks(metric: MetricScores, scores: Sequence[NDArray[np.float64]]) -> list[float]:
    """Return round values; the first and the last are the ends of the axis."""
    from matplotlib.ticker import MaxNLocator

    if metric.limits is not None:
        low, high = metric.limits
        return [float(t) for t in np.linspace(low, high, _TICKS + 1)]
    known = np.concatenate([*scores, [] if metric.chance is None else [metric.chance]])
    if not len(known):
        return [0.0, 1.0]
    low, high = float(known.min()), float(known.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return [float(t) for t in MaxNLocator(nbins=_TICKS).tick_values(low, high)]


def _strip(
    values: NDArray[np.float64], value: float, interval: tuple[float, float] | None, ticks: list[float]
) -> Strip:
    from matplotlib.cbook import boxplot_stats

    (box,) = boxplot_stats(values, whis=WHISKER)
    low, first, median, third, high = (_percent(box[key], ticks) for key in ("whislo", "q1", "med", "q3", "whishi"))
    outliers = [_percent(v, ticks) for v in np.unique(box["fliers"])]
    ends = None if interval is None else (_percent(interval[0], ticks), _percent(interval[1], ticks))
    return Strip(low, first, median, third, high, outliers, _percent(value, ticks), ends)


def _percent(value: float, ticks: list[float]) -> float:
    return float(100 * (value - ticks[0]) / (ticks[-1] - ticks[0]))
