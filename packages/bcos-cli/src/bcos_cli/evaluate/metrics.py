"""Metrics by name.

Those of classification here, those of explanations from their plugins. Imports no torch.
"""

from typing import Any

from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion

CLASSIFICATION = {
    "top1": "share of images whose class has the largest logit",
    "top5": "share of images whose class is among the five largest logits",
    "loss": "the training loss, with plain targets",
    "calibration_error": "expected calibration error of the predicted class, 15 bins",
    "mean_average_precision": "mean over classes, where images have several labels",
    "f1": "of all labels together, where images have several",
}
OF_SEVERAL_LABELS = ("mean_average_precision", "f1")

DEFAULT = ("top1", "top5", "loss", "calibration_error", "gridpg", "completeness")
"""What is measured where nothing is asked for; others take longer, or need more than shards."""


def metric_summaries() -> dict[str, str]:
    """Every metric with one line about it."""
    from bcos_explain import metric_specs

    return CLASSIFICATION | {spec.name: spec.summary for spec in metric_specs()}


def check_metrics(names: list[str]) -> list[str]:
    """Return the names, or those of the default if there are none.

    Raises:
        BcosError: an unknown one.
    """
    known = list(metric_summaries())
    for name in names:
        if name not in known:
            raise BcosError(f"there is no metric {name!r}; {suggestion(name, known)}")
    return list(dict.fromkeys(names)) or list(DEFAULT)


def named_options(given: list[str]) -> dict[str, dict[str, Any]]:
    """Options of metrics and explainers by name, from ``NAME.KEY=VALUE``.

    Raises:
        BcosError: another form, or no metric or explainer of that name.
    """
    from bcos_cli.config import override
    from bcos_explain import list_explainers

    options: dict[str, Any] = {}
    for text in given:
        name, dot, _ = text.partition("=")[0].partition(".")
        if not dot or "=" not in text:
            raise BcosError(f"an option is written NAME.KEY=VALUE, such as rise.n_masks=1000, got {text!r}")
        known = [*list_explainers(), *metric_summaries()]
        if name not in known:
            raise BcosError(f"there is no metric or explainer {name!r}; {suggestion(name, known)}")
        override(options, text)
    return options
