"""Metrics of explanations as a report shows them."""

from collections.abc import Mapping
from typing import Literal

from bcos_cli.evaluate.evaluation import Evaluation
from bcos_explain import metric_specs
from bcos_explain.explainers import remark_lines
from bcos_explain.metrics import MetricResult
from bcos_explain.report import MetricScores, Table

_SENSES: dict[bool | None, tuple[Literal["high", "low"] | None, str]] = {
    True: ("high", "; higher is better"),
    False: ("low", "; lower is better"),
    None: (None, ""),
}
"""Which mean of a metric is the best, for the report and in words."""


def grid_scores(evaluation: Evaluation) -> dict[str, list[float]]:
    """Scores of the grid pointing game by explainer."""
    return {explainer: result.scores.tolist() for explainer, result in evaluation.gridpg.items()}


def remarks_of(results: Mapping[str, MetricResult]) -> dict[str, list[str]]:
    """What explainers said of their maps while a metric was measured."""
    return {explainer: lines for explainer, result in results.items() if (lines := remark_lines(result.remarks))}


def metric_scores(evaluation: Evaluation) -> list[MetricScores]:
    """Metrics that were measured for each explainer, but the grid pointing game."""
    summaries = {spec.name: spec.summary for spec in metric_specs()}
    shown = []
    for metric, results in evaluation.explanations.items():
        named = {explainer: result for explainer, result in results.items() if explainer}
        if metric == "gridpg" or not named:
            continue
        first = next(iter(named.values()))
        best, sense = _SENSES[first.higher_is_better]
        summary = summaries.get(metric, metric)
        shown.append(
            MetricScores(
                title=metric,
                scores={explainer: result.scores.tolist() for explainer, result in named.items()},
                description=f"{summary[:1].upper()}{summary[1:]}{sense}.",
                chance=first.chance,
                best=best,
                group=first.cluster,
                remarks=remarks_of(named),
            )
        )
    return shown


def metric_tables(evaluation: Evaluation) -> list[Table]:
    """Metrics that take no explainer, since they are of the network's own explanation."""
    rows = [
        (metric, results[""].mean, results[""].std, results[""].count)
        for metric, results in evaluation.explanations.items()
        if "" in results
    ]
    columns = ("metric", "mean", "deviation", "scores")
    return [Table(title="Metrics of the network's own explanation", columns=columns, rows=rows)] if rows else []
