"""Explanation methods, all called ``explainer(model, x, target)``."""

from bcos_explain.explainers.attention_rollout import AttentionRollout
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.bcos import BcosContributions, RelativeContributions
from bcos_explain.explainers.cam import GradCam, LayerCam
from bcos_explain.explainers.contract import Explainer, Target, spatial_map
from bcos_explain.explainers.deeplift import DeepLift
from bcos_explain.explainers.gradient import Gradient, InputXGradient
from bcos_explain.explainers.guided_backprop import GuidedBackprop
from bcos_explain.explainers.integrated_gradients import IntegratedGradients
from bcos_explain.explainers.lime import Lime
from bcos_explain.explainers.occlusion import Occlusion
from bcos_explain.explainers.remarks import ExplainerRemark, Remark, collect_remarks, remark, remark_lines
from bcos_explain.explainers.rise import Rise
from bcos_explain.explainers.smoothgrad import SmoothGrad

__all__ = [
    "AttentionRollout",
    "BcosContributions",
    "DeepLift",
    "Explainer",
    "ExplainerRemark",
    "GradCam",
    "Gradient",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCam",
    "Lime",
    "Occlusion",
    "RelativeContributions",
    "Remark",
    "Rise",
    "SmoothGrad",
    "Target",
    "attribute",
    "collect_remarks",
    "remark",
    "remark_lines",
    "spatial_map",
]
