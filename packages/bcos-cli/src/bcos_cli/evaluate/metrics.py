"""The table of metrics: what each is called, what it says and which direction is good. Imports no torch."""

import math
from dataclasses import dataclass

from bcos_core.plugins import unknown
from bcos_explain import MetricSpec, metric_specs
from bcos_explain.plugins import metrics, plugins


@dataclass(frozen=True)
class ClassificationMetric:
    """Description of a score of predictions, as ``MetricSpec`` is for those of explanations."""

    name: str
    """A field of :class:`bcos_cli.evaluate.classification.Scores`."""
    label: str
    """Its name in a report."""
    summary: str
    higher_is_better: bool = True
    share: bool = True
    """Whether it is shown as a percentage."""
    multi_label: bool = False
    """Whether it exists only for images with several labels."""


CLASSIFICATION = {
    metric.name: metric
    for metric in (
        ClassificationMetric("top1", "top-1", "share of images whose class has the largest logit"),
        ClassificationMetric("top5", "top-5", "share of images whose class is among the five largest logits"),
        ClassificationMetric(
            "mean_average_precision",
            "mean average precision",
            "mean over classes, where images have several labels",
            multi_label=True,
        ),
        ClassificationMetric("f1", "F1", "of all labels together, where images have several", multi_label=True),
        ClassificationMetric("loss", "loss", "the training loss, with plain targets", False, False),
        ClassificationMetric(
            "calibration_error",
            "calibration error",
            "mean distance of confidence from accuracy: expected calibration error of the predicted class, 15 bins",
            higher_is_better=False,
        ),
    )
}
DEFAULT = ("top1", "top5", "loss", "calibration_error", "gridpg", "completeness", "image_share", "cancellation")
"""Metrics by default; others take longer, or need more than shards."""


def all_metrics() -> dict[str, ClassificationMetric | MetricSpec]:
    """Return every metric by name: those of classification, then those of explanations from all plugins."""
    return {**CLASSIFICATION, **{spec.name: spec for spec in explanation_metrics()}}


def explanation_metrics() -> list[MetricSpec]:
    """Return the metrics of explanations; one that is called as a score of classification is marked as broken."""
    for name in CLASSIFICATION.keys() & set(metrics().names()):
        error = f"the metric {name!r} is already a score of classification; choose another name"
        plugins().mark_broken(metrics().owner(name), error)
    return [spec for spec in metric_specs() if spec.name not in CLASSIFICATION]


def describe(name: str) -> ClassificationMetric | MetricSpec:
    """Return the description of a metric; only its name if its plugin is gone."""
    return all_metrics().get(name) or MetricSpec(name, "", summary=name)


def format_value(name: str, value: float) -> str:
    """Return a value of the metric `name` as text: a share as a percentage, another with four significant digits."""
    if math.isnan(value):
        return "undefined"
    return f"{value:.2%}" if describe(name).share else f"{value:.4g}"


def check_metrics(names: list[str]) -> list[str]:
    """Return the names without repetition, or those of the default if there are none.

    Raises:
        BcosError: an unknown one.
    """
    known = all_metrics()
    for name in names:
        if name not in known:
            raise unknown("metric", name, known)
    return list(dict.fromkeys(names)) or list(DEFAULT)
