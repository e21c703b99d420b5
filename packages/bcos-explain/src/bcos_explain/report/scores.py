"""Results of explainers under one metric, as a report shows them."""

from collections.abc import Mapping
from dataclasses import dataclass

from bcos_explain.explainers.remarks import remark_lines
from bcos_explain.metrics.result import MetricResult


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """One metric of each explainer, shown as box plots beside the means and their intervals."""

    title: str
    results: Mapping[str, MetricResult]
    """Results by explainer, in the order shown. Explainers without a defined score are left out."""
    description: str = ""
    """A paragraph: what is measured, and what is good."""
    limits: tuple[float, float] | None = None
    """Ends of the axis; None for the range of the scores."""

    @property
    def chance(self) -> float | None:
        """Score of an explanation that says nothing, drawn as a line."""
        return next((result.chance for result in self.results.values()), None)

    @property
    def higher_is_better(self) -> bool | None:
        """Whether higher means are better; None if neither is."""
        return next((result.higher_is_better for result in self.results.values()), None)

    @property
    def remarks(self) -> dict[str, list[str]]:
        """Remarks of explainers on their own maps, by explainer; shown below the table."""
        return {name: lines for name, result in self.results.items() if (lines := remark_lines(result.remarks))}
