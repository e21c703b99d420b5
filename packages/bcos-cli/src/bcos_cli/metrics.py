"""Metrics by name.

Those of classification here, those of explanations from their plugins. Imports no torch.
"""

from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion

CLASSIFICATION = {
    "top1": "share of images whose class has the largest logit",
    "top5": "share of images whose class is among the five largest logits",
    "loss": "the training loss, with plain targets",
    "calibration_error": "expected calibration error of the predicted class, 15 bins",
}


def metric_summaries() -> dict[str, str]:
    """Every metric with one line about it."""
    from bcos_explain import metric_specs

    return CLASSIFICATION | {spec.name: spec.summary for spec in metric_specs()}


def check_metrics(names: list[str]) -> list[str]:
    """Return the names, or all metrics if there are none.

    Raises:
        BcosError: an unknown one.
    """
    known = list(metric_summaries())
    for name in names:
        if name not in known:
            raise BcosError(f"there is no metric {name!r}; {suggestion(name, known)}")
    return names or known
