"""The explainers and metrics of this package. Imports no torch."""

from collections.abc import Iterable
from functools import partial

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
    """Return the measures of localisation, faithfulness, stability and simplicity."""
    yield from _localisation()
    yield from _faithfulness()
    yield from _stability()
    yield from _simplicity()


_IMAGE_INPUTS = ("model", "explainer", "images")
_GRID_INPUTS = (*_IMAGE_INPUTS, "labels", "confidences")
_image_metric = partial(MetricSpec, needs=_IMAGE_INPUTS, unit="image")
_grid_metric = partial(MetricSpec, needs=_GRID_INPUTS, unit="grid", higher_is_better=True, share=True)
_RAO = "Rao et al., CVPR 2022, section 3.1"
_WANG = "Wang et al., CVPR Workshops 2020, section 4.3"


def _localisation() -> Iterable[MetricSpec]:
    yield _grid_metric(
        "gridpg",
        f"{_METRICS}.grid_pointing:grid_pointing_game",
        "share of positive contributions inside the explained class's cell of a grid of images",
        source="Böhle et al., CVPR 2021, arXiv 2104.00032, section 4.2",
    )
    yield _grid_metric(
        "difull",
        f"{_METRICS}.disjoint_cells:difull",
        "the same where each cell passes through the network alone, so that no other cell can matter",
        source=_RAO,
    )
    yield _grid_metric(
        "dipart",
        f"{_METRICS}.disjoint_cells:dipart",
        "the same where each cell of the last feature map is classified alone",
        source=_RAO,
    )
    yield MetricSpec(
        "epg",
        f"{_METRICS}.energy_pointing:energy_pointing_game",
        "share of positive contributions inside boxes around the object",
        (*_IMAGE_INPUTS, "boxes"),
        _WANG,
        unit="image",
        higher_is_better=True,
        share=True,
    )
    yield MetricSpec(
        "epg_masks",
        f"{_METRICS}.energy_pointing:energy_pointing_game_masks",
        "share of positive contributions inside the mask of the object",
        (*_IMAGE_INPUTS, "masks"),
        _WANG,
        unit="image",
        higher_is_better=True,
        share=True,
    )


def _faithfulness() -> Iterable[MetricSpec]:
    yield MetricSpec(
        "completeness",
        f"{_METRICS}.completeness:completeness",
        "distance of contributions plus bias from the explained logit",
        ("model", "images"),
        "Sundararajan et al., ICML 2017",
        unit="image",
        higher_is_better=False,
    )
    yield _image_metric(
        "deletion",
        f"{_METRICS}.perturbation:pixel_deletion",
        "area under the probability while pixels are removed, the most important first",
        source="Petsiuk et al., BMVC 2018, section 4.1",
        higher_is_better=False,
    )
    yield _image_metric(
        "insertion",
        f"{_METRICS}.perturbation:pixel_insertion",
        "area under the probability while pixels are put into a blurred image, the most important first",
        source="Petsiuk et al., BMVC 2018, section 4.1",
        higher_is_better=True,
    )
    yield _image_metric(
        "sensitivity_n",
        f"{_METRICS}.sensitivity_n:sensitivity_n",
        "correlation of the attribution of random pixels with what their removal costs",
        source="Ancona et al., ICLR 2018, section 4",
        higher_is_better=True,
    )
    yield _image_metric(
        "infidelity",
        f"{_METRICS}.infidelity:infidelity",
        "squared distance of the attribution of random squares from what their removal costs",
        source="Yeh et al., NeurIPS 2019, definition 2.1",
        higher_is_better=False,
    )
    yield _image_metric(
        "randomisation",
        f"{_METRICS}.randomisation:model_randomisation",
        "similarity to the explanation of the network with shuffled parameters",
        source="Adebayo et al., NeurIPS 2018, section 3.1",
        higher_is_better=False,
    )


def _stability() -> Iterable[MetricSpec]:
    yield _image_metric(
        "max_sensitivity",
        f"{_METRICS}.max_sensitivity:max_sensitivity",
        "largest relative change of the explanation under weak noise",
        source="Yeh et al., NeurIPS 2019, definition 3.1",
        higher_is_better=False,
    )
    yield _image_metric(
        "shift_stability",
        f"{_METRICS}.shift_stability:shift_stability",
        "similarity to the explanation of the image that was shifted by a pixel or two",
        source="Crabbé and van der Schaar, NeurIPS 2023, arXiv 2304.06715, equivariance",
        higher_is_better=True,
    )


def _simplicity() -> Iterable[MetricSpec]:
    yield _image_metric(
        "sparseness",
        f"{_METRICS}.sparsity:sparseness",
        "Gini index of the contributions of all pixels",
        source="Chalasani et al., ICML 2020",
        higher_is_better=True,
    )
    yield _image_metric(
        "complexity",
        f"{_METRICS}.sparsity:complexity",
        "entropy of the contributions of all pixels",
        source="Bhatt et al., IJCAI 2020",
        higher_is_better=False,
    )
    yield _image_metric(
        "effective_pixels",
        f"{_METRICS}.sparsity:effective_pixels",
        "number of pixels that would share an even map of the same entropy",
        source="Bhatt et al., IJCAI 2020, exponential of the entropy",
        higher_is_better=False,
    )
