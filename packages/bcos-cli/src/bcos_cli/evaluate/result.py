"""The result of an evaluation: all scores of a network, as ``evaluation.json`` holds them and ``bcos eval`` prints."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bcos_cli import console
from bcos_cli.config.output_path import check_apart, check_table, check_writable
from bcos_cli.evaluate.classification import Scores
from bcos_cli.evaluate.metrics import describe, format_value
from bcos_cli.evaluate.predictions import SplitPredictions
from bcos_cli.evaluate.requirements import Condition
from bcos_cli.file_names import PARTIAL_NAME
from bcos_core.completeness import is_rounding, rounding
from bcos_core.files import write_atomically
from bcos_core.image_share import LOW_SHARE
from bcos_explain.explainers import remark_lines
from bcos_explain.metrics import MetricResult, write_results
from bcos_explain.metrics.result_files import CURVES_CSV, SCORES_CSV

PREDICTIONS = "predictions.csv"
"""File with the prediction of every image, in that of the scores."""
_TABLES = {PREDICTIONS: "file,", SCORES_CSV: "result,sample,", CURVES_CSV: "result,sample,"}
"""How tables in a folder of scores begin."""
COLUMNS = ("metric", "value", "95 % interval", "lowest tenth", "by chance", "scores", "better")
_DIRECTIONS = {True: "higher", False: "lower", None: ""}

Explanations = dict[str, dict[str, MetricResult]]
"""Results by metric and explainer (``""`` where a metric takes none)."""


def score_name(metric: str, explainer: str) -> str:
    """Return the name of a score: ``metric/explainer``, or ``metric`` where it takes no explainer."""
    return f"{metric}/{explainer}" if explainer else metric


def by_score(explanations: Explanations) -> dict[str, MetricResult]:
    """Return results by the names of their scores."""
    named = explanations.items()
    return {score_name(metric, explainer): result for metric, by in named for explainer, result in by.items()}


def score_values(explanations: Explanations) -> dict[str, float]:
    """Return the value of each score: its mean or median."""
    return {name: result.value for name, result in by_score(explanations).items()}


def low_share_notes(explanations: Explanations) -> list[str]:
    """Return a warning where the exact maps account for little of the logits."""
    return [
        f"the median image share is {format_value('image_share', result.value)}: most of the logits is bias, for which "
        "the maps do not account; neither the pointing games nor completeness say anything of that"
        for result in explanations.get("image_share", {}).values()
        if result.value < LOW_SHARE
    ]


@dataclass
class Evaluation:
    """All scores of a network on a split, or on annotated photographs."""

    model: str
    data: str
    split: str
    classes: list[str]
    classification: Scores | None
    """None where only some images were looked at."""
    metrics: dict[str, float]
    """The value of every score, by ``metric`` or ``metric/explainer``: a mean, or a median where that says more."""
    explanations: Explanations
    samples: dict[str, list[int] | list[str]]
    """Images that the scores of metrics of single images belong to: positions in the split, or file names."""
    grid_size: int
    skipped: dict[str, str]
    """Metrics that could not be measured, and why."""
    notes: list[str] = field(default_factory=list)
    """What else a reader of the scores should know."""
    predictions: SplitPredictions | None = field(default=None, repr=False)
    """Where all images were looked at; with the images' names where these were asked for."""

    @property
    def scores(self) -> Scores:
        """Classification scores, where all images were looked at."""
        assert self.classification is not None
        return self.classification

    @property
    def gridpg(self) -> dict[str, MetricResult]:
        """The grid pointing game of each explainer."""
        return self.explanations.get("gridpg", {})

    def to_dict(self) -> dict[str, Any]:
        """Return every value, for JSON."""
        values = {k: v for k, v in vars(self).items() if k not in ("explanations", "classification", "predictions")}
        values["metrics"] = {name: None if math.isnan(value) else value for name, value in self.metrics.items()}
        values["scores"] = None if self.classification is None else asdict(self.classification)
        ends = {} if self.classification is None else self.classification.intervals
        values["intervals_95"] = {name: None if math.isnan(low) else [low, high] for name, (low, high) in ends.items()}
        values["explanations"] = {m: {e: r.to_dict() for e, r in by.items()} for m, by in self.explanations.items()}
        return values

    def failures(self, conditions: Sequence[Condition], requested: Sequence[str] = ()) -> list[str]:
        """Return why it does not pass, in one line each.

        Contributions and bias must add up to every logit, wherever completeness was measured, all conditions must
        hold, and the metrics that a user `requested` by name must have been measured.

        Raises:
            BcosError: a condition on a score that was not requested.
        """
        found = []
        for name, reason in self.skipped.items():
            metric = name.partition("/")[0]
            if metric == "completeness":
                found.append(f"completeness failed: {reason}")
            elif metric in requested:
                found.append(f"{name} was not measured: {reason}")
        for result in self.explanations.get("completeness", {}).values():
            if wrong := int((~is_rounding(result.scores)).sum()):
                found.append(
                    f"completeness failed: contributions and bias of {wrong} of {result.count} images miss the logit "
                    f"by more than {rounding():g} of their size, at most by {float(result.scores.max()):.1e}"
                )
        reasons = [condition.failure(self.metrics, self.skipped) for condition in conditions]
        return found + [reason for reason in reasons if reason is not None]

    def save(self, path: Path) -> None:
        """Write the JSON whole or not at all."""
        write_atomically(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def write_scores(self, folder: Path) -> None:
        """Write every single score of the metrics of explanations, if there are any, as CSV and JSON."""
        if results := by_score(self.explanations):
            keys = {name: found for name in results if (found := self.samples.get(name.partition("/")[0]))}
            write_results(folder, results, keys)


@dataclass(frozen=True)
class ScoreFiles:
    """Files that a user requests, besides those of a run."""

    json_file: Path | None = None
    """File for all values."""
    folder: Path | None = None
    """Folder for all scores as CSV and JSON, and for partial results, from which a killed evaluation continues."""

    @property
    def partial(self) -> Path | None:
        """Folder for partial results."""
        return None if self.folder is None else self.folder / PARTIAL_NAME

    def check(self) -> None:
        """Refuse places that cannot be written, before anything is computed."""
        if self.json_file is not None:
            check_writable(self.json_file, "--json")
        if self.folder is not None:
            check_writable(self.folder / PREDICTIONS)
            for name, start in _TABLES.items():
                check_table(self.folder / name, start)

    def check_apart(self, reads: Iterable[str | Path | None]) -> None:
        """Refuse to replace a file that is read: see :func:`bcos_cli.config.output_path.check_apart`."""
        if self.json_file is not None:
            check_apart(self.json_file, reads, "--json")

    def write(self, evaluation: Evaluation) -> None:
        """Write the requested files."""
        if self.json_file is not None:
            evaluation.save(self.json_file)
        if self.folder is not None:
            evaluation.write_scores(self.folder)
            if evaluation.predictions is not None:
                evaluation.predictions.save(self.folder / PREDICTIONS)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores, what could not be measured, and the remarks of explainers on their maps."""
    results = by_score(evaluation.explanations)
    rows = []
    for name, value in evaluation.metrics.items():
        metric, result = name.partition("/")[0], results.get(name)
        interval = low = chance = count = statistic = ""
        better = describe(metric).higher_is_better
        if evaluation.classification is not None and name in (ends := evaluation.classification.intervals):
            interval, count = (
                " to ".join(format_value(metric, end) for end in ends[name]),
                f"{evaluation.scores.samples:,}",
            )
        if result is not None:
            interval = result.interval_text(partial(format_value, metric)) or "undefined"
            if result.statistic == "median":
                statistic, low = " (median)", format_value(metric, result.quantile(0.1))
            chance = "" if result.chance is None else format_value(metric, result.chance)
            count, better = f"{result.count:,}", result.higher_is_better
        rows.append((name + statistic, format_value(metric, value), interval, low, chance, count, _DIRECTIONS[better]))
    images = f"{evaluation.scores.samples:,} images of " if evaluation.classification else ""
    title = f"{evaluation.model} on {images}{evaluation.data} ({evaluation.split})"
    used = [i for i in range(len(COLUMNS)) if i < 2 or any(row[i] for row in rows)]
    console.table(title, [COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows])
    lines = [f"{name} was not measured: {reason}" for name, reason in evaluation.skipped.items()]
    for line in [*lines, *evaluation.notes]:
        console.out.print(line)
    for name, result in results.items():
        for line in remark_lines(result.remarks):
            console.out.print(f"{name}: {line}")
