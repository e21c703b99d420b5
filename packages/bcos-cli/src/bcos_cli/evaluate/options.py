"""The options of an evaluation: which metrics, on which images, with which settings."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bcos_cli.data.reading import Reading
from bcos_cli.evaluate.requirements import Condition
from bcos_core.errors import BcosError
from bcos_core.losses import BinaryCrossEntropyLoss
from bcos_core.plugins import check_options
from bcos_explain import get_explainer, get_metric, metric_specs

_GIVEN = ("grids", "num_grids", "n", "generator", "target", "encode", "progress")
"""Arguments of metrics that are no options, beside those that they need: the evaluation sets them in its own way."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What to score, and how."""

    split: str = "test"
    metrics: tuple[str, ...] = ()
    explainers: tuple[str, ...] = ("bcos",)
    batch_size: int = 256
    explain_batch: int = 8
    """Images, or grids, explained at a time."""
    workers: int = 2
    images: int = 64
    """Number of images for the metrics of single images, spread evenly over the split."""
    grids: int = 100
    grid_size: int = 2
    smooth: int = 1
    seed: int = 0
    loss: nn.Module = field(default_factory=BinaryCrossEntropyLoss)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of metrics and explainers, by name."""
    require: tuple[Condition, ...] = ()
    """Conditions, whose metrics are measured too."""
    reading: Reading = field(default_factory=Reading)

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """All metrics, including those of conditions."""
        return tuple(dict.fromkeys([*self.metrics, *(condition.name for condition in self.require)]))

    def check(self) -> None:
        """Refuse, before anything is computed, what would fail in the end.

        Raises:
            BcosError: an unknown explainer, an option that it or a metric does not have, or that belongs to
                nothing measured, or a condition on a score that is not measured.
        """
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise BcosError(f"smooth must be odd and at least 1, got {self.smooth}; use 1 for no smoothing")
        for explainer in self.explainers:
            get_explainer(explainer, **self.options.get(explainer, {}))
        specs = {spec.name: spec for spec in metric_specs()}
        for name, options in self.options.items():
            if name not in (*self.all_metrics, *self.explainers):
                raise BcosError(f"{name} has options, but is not measured; add --metric or --explainer {name}")
            if name in self.all_metrics:
                given = set(_GIVEN) if name not in specs else {*_GIVEN, *specs[name].needs}
                check_options(f"the metric {name!r}", get_metric(name), options, inputs=given)
        for condition in self.require:
            condition.check(self.all_metrics, self.explainers)

    def fingerprint(self) -> dict[str, Any]:
        """Return the options that results of explanations depend on."""
        irrelevant = ("metrics", "explainers", "batch_size", "workers", "loss", "require")
        values = dataclasses.asdict(dataclasses.replace(self, loss=nn.Identity()))
        return {name: value for name, value in values.items() if name not in irrelevant}
