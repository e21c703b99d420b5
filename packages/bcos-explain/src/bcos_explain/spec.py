"""Descriptions of explainers and metrics: light, frozen, importable without torch."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["image", "grid", "whole"]


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
    signed: bool = True
    """Whether a negative attribution speaks against the class; maps of other methods are drawn from pale to dark."""


@dataclass(frozen=True)
class MetricSpec:
    """A measure of explanations by name, and the function that computes it."""

    name: str
    builder: str
    """``"module:function"``: the function that computes the metric."""
    summary: str = ""
    needs: tuple[str, ...] = ("model", "images")
    """The positional arguments of the function, in order, among ``"model"``, ``"explainer"``, ``"images"``,
    ``"labels"``, ``"confidences"``, ``"boxes"``, ``"masks"`` and ``"keys"``, of which all but the first two hold
    one entry an image. A metric that needs labels and confidences is about correctly classified images, as
    :class:`bcos_explain.metrics.ConfidentImages` collects them.
    """
    source: str = ""
    """The paper that describes the metric."""
    unit: Unit = "whole"
    """What the function may be given a part of, so that a measurement can be spread over processes and resumed:
    ``"image"``, one score an image, which depends on no other; ``"grid"``, called with ``grids`` (G, n²), of
    images that it tiles; ``"whole"``, nothing.
    """
    higher_is_better: bool | None = None
    """None where neither is."""
    share: bool = False
    """Whether a score is a share from 0 to 1, which tables show as a percentage."""
