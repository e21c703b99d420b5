"""The explainers and metrics of this package. Imports no torch."""

from collections.abc import Iterable

from bcos_explain.hookspecs import hookimpl
from bcos_explain.spec import ExplainerSpec, MetricSpec

_EXPLAINERS = "bcos_explain.explainers"
_METRICS = "bcos_explain.metrics"


@hookimpl
def bcos_explain_explainers() -> Iterable[ExplainerSpec]:
    """Return the exact B-cos contributions, and the methods they are compared with."""
    yield ExplainerSpec(
        "bcos",
        f"{_EXPLAINERS}.bcos:BcosContributions",
        "contributions W(x)·x of the network's own dynamic linear map",
        "Böhle et al., TPAMI 2024",
        exact=True,
    )
    yield ExplainerSpec(
        "input_x_gradient",
        f"{_EXPLAINERS}.input_x_gradient:InputXGradient",
        "input times gradient",
        "Shrikumar et al., 2016, arXiv 1605.01713",
    )
    yield ExplainerSpec(
        "integrated_gradients",
        f"{_EXPLAINERS}.integrated_gradients:IntegratedGradients",
        "gradients averaged along the line from zero to the input, times the input",
        "Sundararajan et al., ICML 2017",
    )
    yield ExplainerSpec(
        "gradcam",
        f"{_EXPLAINERS}.gradcam:GradCam",
        "last feature maps weighted by their mean gradients, upsampled",
        "Selvaraju et al., ICCV 2017",
    )


@hookimpl
def bcos_explain_metrics() -> Iterable[MetricSpec]:
    """Return the measures of localisation and of exactness."""
    yield MetricSpec(
        "gridpg",
        f"{_METRICS}.gridpg:grid_pointing_game",
        "share of positive contributions inside the explained class's cell of a grid of images",
        ("model", "explainer", "images", "labels", "confidences"),
        "Böhle et al., CVPR 2021, arXiv 2104.00032, section 4.2",
    )
    yield MetricSpec(
        "completeness",
        f"{_METRICS}.completeness:completeness",
        "distance of contributions plus bias from the explained logit",
        ("model", "images"),
        "Sundararajan et al., ICML 2017",
    )
