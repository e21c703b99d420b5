"""The explainers and metrics of this package. Imports no torch."""

from collections.abc import Iterable, Mapping
from functools import partial

from bcos_explain.hookspecs import hookimpl
from bcos_explain.spec import ExplainerSpec, MetricSpec, Unit


@hookimpl
def bcos_explain_explainers() -> Iterable[ExplainerSpec]:
    """Return the exact B-cos contributions, and the methods they are compared with."""
    for name, (explainer, summary, source) in _EXPLAINERS.items():
        yield ExplainerSpec(
            name, f"bcos_explain.explainers:{explainer}", summary, source, name == "bcos", name not in _UNSIGNED
        )


_TPAMI = "Böhle et al., TPAMI 2024"
_EXPLAINERS = {
    "bcos": ("BcosContributions", "contributions W(x)·x of the network's own dynamic linear map", _TPAMI),
    "bcos_relative": (
        "RelativeContributions",
        "contributions to the logit's distance from the mean of all logits",
        _TPAMI,
    ),
    "gradient": ("Gradient", "the gradient", "Simonyan et al., 2013, arXiv 1312.6034"),
    "input_x_gradient": ("InputXGradient", "input times gradient", "Shrikumar et al., 2016, arXiv 1605.01713"),
    "guided_backprop": (
        "GuidedBackprop",
        "the gradient, negative parts cut at every ReLU",
        "Springenberg et al., 2015, arXiv 1412.6806",
    ),
    "integrated_gradients": (
        "IntegratedGradients",
        "gradients averaged along the line from zero to the input, times the input",
        "Sundararajan et al., ICML 2017",
    ),
    "deeplift": (
        "DeepLift",
        "differences from the zero input, carried back by the rescale rule",
        "Shrikumar et al., ICML 2017",
    ),
    "smoothgrad": (
        "SmoothGrad",
        "the gradient averaged over noisy copies of the input",
        "Smilkov et al., 2017, arXiv 1706.03825",
    ),
    "gradcam": (
        "GradCam",
        "last feature maps weighted by their mean gradients, upsampled",
        "Selvaraju et al., ICCV 2017",
    ),
    "layercam": (
        "LayerCam",
        "last feature maps weighted by their positive gradients at each position, upsampled",
        "Jiang et al., IEEE TIP 2021",
    ),
    "occlusion": ("Occlusion", "how far the logit falls when a window is blanked", "Zeiler and Fergus, ECCV 2014"),
    "rise": ("Rise", "random masks, averaged with the confidence under each", "Petsiuk et al., BMVC 2018"),
    "lime": ("Lime", "linear model of the logit in the presence of square cells", "Ribeiro et al., KDD 2016"),
    "attention_rollout": (
        "AttentionRollout",
        "attention of a transformer followed through all layers; the same for every class",
        "Abnar and Zuidema, ACL 2020",
    ),
}
"""Class, what it gives, and the paper, by name."""
_UNSIGNED = ("attention_rollout", "gradcam", "layercam", "rise")


@hookimpl
def bcos_explain_metrics() -> Iterable[MetricSpec]:
    """Return the measures of localisation, faithfulness, stability and simplicity."""
    maps = ("model", "explainer", "images")
    share = partial(_metrics, higher_is_better=True, share=True)
    yield from share(_OF_GRIDS, (*maps, "labels", "confidences"), unit="grid")
    yield from share(_OF_BOXES, (*maps, "boxes"))
    yield from share(_OF_MASKS, (*maps, "masks"))
    yield from _metrics(_OF_THE_EXACT_MAP, ("model", "images"), higher_is_better=False)
    yield from share(_SHARES_OF_THE_EXACT_MAP, ("model", "images"))
    yield from _metrics(_HIGHER_IS_BETTER, maps, higher_is_better=True)
    yield from _metrics(_LOWER_IS_BETTER, maps, higher_is_better=False)


_Rows = Mapping[str, tuple[str, str, str]]
"""Function, what it measures, and the paper, by name."""


def _metrics(rows: _Rows, needs: tuple[str, ...], *, unit: Unit = "image", **shared: bool) -> Iterable[MetricSpec]:
    for name, (function, summary, source) in rows.items():
        yield MetricSpec(name, f"bcos_explain.metrics:{function}", summary, needs, source, unit, **shared)


_RAO = "Rao et al., CVPR 2022, section 3.1"
_WANG = "Wang et al., CVPR Workshops 2020, section 4.3"
_PETSIUK = "Petsiuk et al., BMVC 2018, section 4.1"
_OF_GRIDS = {
    "gridpg": (
        "grid_pointing_game",
        "share of positive contributions inside the explained class's cell of a grid of images",
        "Böhle et al., CVPR 2021, arXiv 2104.00032, section 4.2",
    ),
    "difull": (
        "difull",
        "the same where each cell passes through the network alone, so that no other cell can matter",
        _RAO,
    ),
    "dipart": ("dipart", "the same where each cell of the last feature map is classified alone", _RAO),
}
_OF_BOXES = {"epg": ("energy_pointing_game", "share of positive contributions inside boxes around the object", _WANG)}
_OF_MASKS = {
    "epg_masks": ("energy_pointing_game_masks", "share of positive contributions inside the mask of the object", _WANG)
}
_OF_THE_EXACT_MAP = {
    "completeness": (
        "completeness",
        "distance of contributions plus bias from the explained logit",
        "Sundararajan et al., ICML 2017",
    )
}
_SHARES_OF_THE_EXACT_MAP = {
    "image_share": (
        "image_share",
        "share of the explained logit that comes from the image: contributions, summed, beside the bias (without the "
        "logit bias); median",
        f"the decomposition of {_TPAMI}",
    ),
    "cancellation": (
        "cancellation",
        "what contributions leave of their absolute values after they cancel; median",
        f"the decomposition of {_TPAMI}",
    ),
}
_HIGHER_IS_BETTER = {
    "insertion": (
        "pixel_insertion",
        "area under the probability while pixels are put into a blurred image, the most important first",
        _PETSIUK,
    ),
    "sensitivity_n": (
        "sensitivity_n",
        "correlation of the attribution of random pixels with what their removal costs",
        "Ancona et al., ICLR 2018, section 4",
    ),
    "shift_stability": (
        "shift_stability",
        "similarity to the explanation of the image that was shifted by a pixel or two",
        "Crabbé and van der Schaar, NeurIPS 2023, arXiv 2304.06715, equivariance",
    ),
    "sparseness": ("sparseness", "Gini index of the contributions of all pixels", "Chalasani et al., ICML 2020"),
}
_LOWER_IS_BETTER = {
    "deletion": (
        "pixel_deletion",
        "area under the probability while pixels are removed, the most important first",
        _PETSIUK,
    ),
    "infidelity": (
        "infidelity",
        "squared distance of the attribution of random squares from what their removal costs",
        "Yeh et al., NeurIPS 2019, definition 2.1",
    ),
    "randomisation": (
        "model_randomisation",
        "similarity to the explanation of the network with shuffled parameters",
        "Adebayo et al., NeurIPS 2018, section 3.1",
    ),
    "max_sensitivity": (
        "max_sensitivity",
        "largest relative change of the explanation under weak noise",
        "Yeh et al., NeurIPS 2019, definition 3.1",
    ),
    "complexity": ("complexity", "entropy of the contributions of all pixels", "Bhatt et al., IJCAI 2020"),
    "effective_pixels": (
        "effective_pixels",
        "number of pixels that would share an even map of the same entropy",
        "Bhatt et al., IJCAI 2020, exponential of the entropy",
    ),
}
