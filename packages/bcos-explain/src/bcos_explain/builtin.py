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
        "bcos_relative",
        f"{_EXPLAINERS}.bcos:RelativeContributions",
        "contributions to the logit's distance from the mean of all logits",
        "Böhle et al., TPAMI 2024",
    )
    yield ExplainerSpec(
        "gradient", f"{_EXPLAINERS}.gradient:Gradient", "the gradient", "Simonyan et al., 2013, arXiv 1312.6034"
    )
    yield ExplainerSpec(
        "input_x_gradient",
        f"{_EXPLAINERS}.input_x_gradient:InputXGradient",
        "input times gradient",
        "Shrikumar et al., 2016, arXiv 1605.01713",
    )
    yield ExplainerSpec(
        "guided_backprop",
        f"{_EXPLAINERS}.guided_backprop:GuidedBackprop",
        "the gradient, negative parts cut at every ReLU",
        "Springenberg et al., 2015, arXiv 1412.6806",
    )
    yield ExplainerSpec(
        "integrated_gradients",
        f"{_EXPLAINERS}.integrated_gradients:IntegratedGradients",
        "gradients averaged along the line from zero to the input, times the input",
        "Sundararajan et al., ICML 2017",
    )
    yield ExplainerSpec(
        "deeplift",
        f"{_EXPLAINERS}.deeplift:DeepLift",
        "differences from the zero input, carried back by the rescale rule",
        "Shrikumar et al., ICML 2017",
    )
    yield ExplainerSpec(
        "smoothgrad",
        f"{_EXPLAINERS}.smoothgrad:SmoothGrad",
        "the gradient averaged over noisy copies of the input",
        "Smilkov et al., 2017, arXiv 1706.03825",
    )
    yield ExplainerSpec(
        "gradcam",
        f"{_EXPLAINERS}.gradcam:GradCam",
        "last feature maps weighted by their mean gradients, upsampled",
        "Selvaraju et al., ICCV 2017",
    )
    yield ExplainerSpec(
        "layercam",
        f"{_EXPLAINERS}.layercam:LayerCam",
        "last feature maps weighted by their positive gradients at each position, upsampled",
        "Jiang et al., IEEE TIP 2021",
    )
    yield ExplainerSpec(
        "occlusion",
        f"{_EXPLAINERS}.occlusion:Occlusion",
        "how far the logit falls when a window is blanked",
        "Zeiler and Fergus, ECCV 2014",
    )
    yield ExplainerSpec(
        "rise",
        f"{_EXPLAINERS}.rise:Rise",
        "random masks, averaged with the confidence under each",
        "Petsiuk et al., BMVC 2018",
    )
    yield ExplainerSpec(
        "lime",
        f"{_EXPLAINERS}.lime:Lime",
        "linear model of the logit in the presence of square cells",
        "Ribeiro et al., KDD 2016",
    )
    yield ExplainerSpec(
        "attention_rollout",
        f"{_EXPLAINERS}.attention_rollout:AttentionRollout",
        "attention of a transformer followed through all layers; the same for every class",
        "Abnar and Zuidema, ACL 2020",
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
        unit="grid",
        higher_is_better=True,
    )
    yield MetricSpec(
        "completeness",
        f"{_METRICS}.completeness:completeness",
        "distance of contributions plus bias from the explained logit",
        ("model", "images"),
        "Sundararajan et al., ICML 2017",
        unit="image",
        higher_is_better=False,
    )
