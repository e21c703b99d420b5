"""Descriptions of explainers and metrics: light, frozen, importable without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExplainerSpec:
    """An explanation method by name, and how to build it."""

    name: str
    builder: str
    """
    ``"module:function"``; called with the options, returns ``explainer(model, x, target) -> (N, [C,] H, W)``.
    """
    summary: str = ""
    source: str = ""
    """The paper that describes the method."""
    exact: bool = False
    """Whether the attributions, with a bias that is known, sum to the explained logit for every network."""


@dataclass(frozen=True)
class MetricSpec:
    """A measure of explanations by name, and the function that computes it."""

    name: str
    builder: str
    """``"module:function"``: the function that computes the metric."""
    summary: str = ""
    needs: tuple[str, ...] = ("model", "images")
    """ The positional arguments of the function, in order, among ``"model"``, ``"explainer"``, ``"images"``,
    ``"labels"`` and ``"confidences"``. A metric that needs labels and confidences is about correctly
    classified images, as :class:`bcos_explain.metrics.ConfidentImages` collects them.
    """
    source: str = ""
    """The paper that describes the metric."""
