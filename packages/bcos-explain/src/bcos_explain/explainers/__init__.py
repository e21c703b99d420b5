"""Explanation methods, one a file, all called ``explainer(model, x, target)``."""

from bcos_explain.explainers.bcos import BcosContributions
from bcos_explain.explainers.contract import Explainer, Target, spatial_map
from bcos_explain.explainers.gradcam import GradCam
from bcos_explain.explainers.input_x_gradient import InputXGradient
from bcos_explain.explainers.integrated_gradients import IntegratedGradients

__all__ = [
    "BcosContributions",
    "Explainer",
    "GradCam",
    "InputXGradient",
    "IntegratedGradients",
    "Target",
    "spatial_map",
]
