"""Pictures of explanations, as numpy arrays with values in [0, 1]."""

from bcos_explain.render.colour import common_alpha_scale, explanation_image
from bcos_explain.render.contributions import contribution_rgb, plot_contribution_map, symmetric_limit
from bcos_explain.render.picture import input_image, on_background, save_png

__all__ = [
    "common_alpha_scale",
    "contribution_rgb",
    "explanation_image",
    "input_image",
    "on_background",
    "plot_contribution_map",
    "save_png",
    "symmetric_limit",
]
