"""Pictures of explanations, as numpy arrays with values in [0, 1], as sheets with text, and as files."""

from bcos_explain.render.animation import animation
from bcos_explain.render.contributions import ColorBar, contribution_rgb, plot_contribution_map, symmetric_limit
from bcos_explain.render.files import data_uri, picture_bytes, save_png, save_sheet, sheet_bytes
from bcos_explain.render.grid import Tile, grid, laid_on
from bcos_explain.render.notebook import explanation_html
from bcos_explain.render.picture import (
    contribution_overlay,
    explanation_overlay,
    greyed,
    input_image,
    on_background,
    on_ground,
)
from bcos_explain.render.scale import percentile_of_many
from bcos_explain.render.sheet import Background, Sheet
from bcos_explain.render.weight_image import WeightPicture, common_alpha_scale, explanation_image, smoothing

__all__ = [
    "Background",
    "ColorBar",
    "Sheet",
    "Tile",
    "WeightPicture",
    "animation",
    "common_alpha_scale",
    "contribution_overlay",
    "contribution_rgb",
    "data_uri",
    "explanation_html",
    "explanation_image",
    "explanation_overlay",
    "greyed",
    "grid",
    "input_image",
    "laid_on",
    "on_background",
    "on_ground",
    "percentile_of_many",
    "picture_bytes",
    "plot_contribution_map",
    "save_png",
    "save_sheet",
    "sheet_bytes",
    "smoothing",
    "symmetric_limit",
]
