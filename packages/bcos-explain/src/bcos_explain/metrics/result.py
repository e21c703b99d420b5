"""Scores of a metric, one a sample, with their mean or median and its interval."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bcos_core import BcosError
from bcos_explain.explainers.remarks import Remark, remark_lines, worst

DEFAULT_SEED = 0
"""Of the generator that is made where none is given."""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """What every metric returns.

    Raises:
        BcosError: scores that are not (M,) or infinite, no whole number of clusters, or curves that do not fit.
    """

    scores: Tensor
    """(M,), float64 on the CPU, one a sample; NaN where the metric is undefined for a sample."""
    cluster: int = 1
    """This many consecutive scores belong together, such as those of the cells of a grid."""
    higher_is_better: bool | None = None
    chance: float | None = None
    """Expected score of an uninformative explanation; None where it is unknown or differs from sample to sample."""
    curves: Tensor | None = None
    """(M, S), for metrics that summarise a curve."""
    curve_x: Tensor | None = None
    """(S,): where the curves were measured."""
    statistic: Literal["mean", "median"] = "mean"
    """What of the scores is the :attr:`value`: a median where a few scores may be far from all others."""
    remarks: tuple[Remark, ...] = ()
    """What the explainer said of its maps, each text once, if they were collected."""

    def __post_init__(self) -> None:
        for name in ("scores", "curves", "curve_x"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, value.detach().double().cpu())
        if self.scores.ndim != 1 or self.cluster < 1 or len(self.scores) % self.cluster:
            raise BcosError(
                f"scores must be (M,) with M a multiple of cluster={self.cluster}, got shape {tuple(self.scores.shape)}"
            )
        if bool(self.scores.isinf().any()):
            raise BcosError("scores must be finite, or NaN where the metric is undefined; got infinite ones")
        if self.curves is None and self.curve_x is None:
            return
        shapes = [None if t is None else tuple(t.shape) for t in (self.curves, self.curve_x)]
        if shapes[1] is None or len(shapes[1]) != 1 or shapes[0] != (len(self.scores), *shapes[1]):
            raise BcosError(
                f"curves must be (M, S) and curve_x (S,) for M={len(self.scores)} scores, "
                f"got {shapes[0]} and {shapes[1]}"
            )

    @property
    def count(self) -> int:
        """Scores that are defined."""
        return int((~self.scores.isnan()).sum())

    @property
    def undefined(self) -> int:
        """Samples for which the metric is undefined."""
        return len(self.scores) - self.count

    @property
    def mean(self) -> float:
        """Mean of the scores that are defined; NaN if none is."""
        return float(self.scores.nanmean())

    @property
    def median(self) -> float:
        """Median of the scores that are defined; NaN if none is."""
        return self.quantile(0.5)

    @property
    def value(self) -> float:
        """The mean or median, as `statistic` says: what tables, conditions and comparisons show."""
        return self.median if self.statistic == "median" else self.mean

    def quantile(self, q: float) -> float:
        """Quantile of the scores that are defined, interpolated; NaN if none is."""
        return float(self.scores.nanquantile(q)) if len(self.scores) else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the scores that are defined; NaN for fewer than two, which say nothing about it."""
        defined = self.scores[~self.scores.isnan()]
        return float(defined.std()) if len(defined) > 1 else math.nan

    def bootstrap_interval(
        self, level: float = 0.95, *, resamples: int = 1000, generator: torch.Generator | None = None
    ) -> tuple[float, float]:
        """Percentile bootstrap interval of the value, a mean or median; (NaN, NaN) for fewer than two clusters.

        Whole clusters are resampled, as their scores depend on each other: a single one says nothing about others.

        Args:
            level: probability that the interval should cover it.
            resamples: number of bootstrap samples.
            generator: None for one with a fixed seed.

        Raises:
            BcosError: a level outside of (0, 1), or no resamples.
        """
        if not 0 < level < 1 or resamples < 1:
            raise BcosError(f"level must be inside (0, 1) and resamples at least 1, got {level} and {resamples}")
        clusters = self.scores.reshape(-1, self.cluster)
        counts = (~clusters.isnan()).sum(1)
        clusters, counts = clusters[counts > 0], counts[counts > 0]
        if len(clusters) < 2:
            return math.nan, math.nan
        generator, sums = or_default(generator), clusters.nansum(1)
        values = []
        for _ in range(resamples):  # one at a time: memory does not grow with their number
            drawn = torch.randint(len(sums), (len(sums),), generator=generator)
            is_mean = self.statistic == "mean"
            values.append(sums[drawn].sum() / counts[drawn].sum() if is_mean else clusters[drawn].nanquantile(0.5))
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = torch.quantile(torch.stack(values), tails).tolist()
        return low, high

    def interval_text(self, text_of: Callable[[float], str]) -> str:
        """Return the ends of the 95 % bootstrap interval as text; empty where there is none."""
        low, high = self.bootstrap_interval()
        return "" if math.isnan(low) else f"{text_of(low)} to {text_of(high)}"

    def to_dict(self) -> dict[str, object]:
        """Summary and scores, for JSON: what is undefined is None; of curves their mean."""
        summary: dict[str, object] = {
            "statistic": self.statistic,
            "mean": _or_none(self.mean),
            "median": _or_none(self.median),
            "lowest_tenth": _or_none(self.quantile(0.1)),
            "std": _or_none(self.std),
            "interval_95": [_or_none(end) for end in self.bootstrap_interval()],
            "count": self.count,
            "undefined": self.undefined,
            "chance": self.chance,
            "higher_is_better": self.higher_is_better,
            "cluster": self.cluster,
            "remarks": remark_lines(self.remarks),
            "scores": [_or_none(score) for score in self.scores.tolist()],
        }
        if self.curves is not None and self.curve_x is not None:
            mean = [_or_none(value) for value in self.curves.nanmean(0).tolist()]
            summary["curve"] = {"x": self.curve_x.tolist(), "mean": mean}
        return summary

    def _repr_html_(self) -> str:
        """Value, interval and counts as a table, for notebooks."""
        sense = {True: "higher is better", False: "lower is better", None: ""}[self.higher_is_better]
        rows = [
            (self.statistic, f"{self.value:.4g}"),
            ("95 % interval", self.interval_text("{:.4g}".format) or "undefined"),
            ("scores", str(self.count)),
        ]
        rows += [("undefined", str(self.undefined))] if self.undefined else []
        rows += [] if self.chance is None else [("by chance", f"{self.chance:.4g}")]
        rows += [("remark", html.escape(line)) for line in remark_lines(self.remarks)]
        cells = "".join(f"<tr><th style='text-align: left'>{name}</th><td>{value}</td></tr>" for name, value in rows)
        caption = f"<caption>{type(self).__name__}{', ' + sense if sense else ''}</caption>"
        return f"<table>{caption}{cells}</table>"

    @staticmethod
    def concatenate(results: "Sequence[MetricResult]") -> "MetricResult":
        """Join parts of one measurement, in their order.

        Raises:
            BcosError: no parts, or parts that were measured differently.
        """
        if not results:
            raise BcosError("there are no results to concatenate")
        first = results[0]
        same = ("cluster", "higher_is_better", "chance", "statistic")
        for other in results:
            if differing := [name for name in same if getattr(first, name) != getattr(other, name)]:
                values = {name: (getattr(first, name), getattr(other, name)) for name in differing}
                raise BcosError(f"results of one measurement are needed, got parts that differ in {values}")
            positions = [None if r.curve_x is None else r.curve_x.tolist() for r in (first, other)]
            if positions[0] != positions[1]:
                raise BcosError("results of one measurement are needed, got curves at different positions")
        curves = [result.curves for result in results if result.curves is not None]
        return MetricResult(
            scores=torch.cat([result.scores for result in results]),
            curves=torch.cat(curves) if curves else None,
            curve_x=first.curve_x,
            remarks=tuple(worst(found for result in results for found in result.remarks)),
            **{name: getattr(first, name) for name in same},
        )


def or_default(generator: torch.Generator | None) -> torch.Generator:
    """Return the generator, or one with a fixed seed."""
    return torch.Generator().manual_seed(DEFAULT_SEED) if generator is None else generator


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
