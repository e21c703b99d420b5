"""Metrics: how good explanations are.

A metric that measures the maps of any explainer takes, besides its own options,

- ``model``: in eval mode;
- ``explainer``: see :class:`bcos_explain.explainers.Explainer`; channels are summed;
- ``images``: (M, C, H, W), floats, or 8-bit integers that are divided by 255. They may stay on the CPU: each batch is
  moved to the model's device;
- ``target``: None for the predicted class, one for all images, or (M,), by index or by name among the model's
  ``class_names``;
- ``encode``: from images to what the network takes, such as :class:`bcos_core.AddInverse`; None for images that are
  encoded already;
- ``batch_size``: images explained at once;
- ``progress``: called with the number of images done and of all images, after each batch.

It returns a :class:`MetricResult`, and raises :class:`bcos_core.BcosError` for options that make no sense, where there
is no image, and where the explainer does.
"""

from bcos_explain.metrics.annotations import (
    Annotation,
    Placement,
    boxes_in_input,
    masks_in_input,
    read_coco,
    read_voc,
    segmentation_mask,
)
from bcos_explain.metrics.completeness import CompletenessResult, completeness
from bcos_explain.metrics.confident_images import ConfidentImages
from bcos_explain.metrics.disjoint_cells import DisjointCells, difull, dipart
from bcos_explain.metrics.energy_pointing import (
    box_masks,
    energy_inside,
    energy_pointing_game,
    energy_pointing_game_masks,
)
from bcos_explain.metrics.faithfulness import infidelity, sensitivity_n
from bcos_explain.metrics.grid_pointing import (
    GridPointingResult,
    cell_scores,
    grid_pointing_game,
    sample_grids,
    tile,
    untile,
)
from bcos_explain.metrics.image_share import cancellation, image_share
from bcos_explain.metrics.pixel_removal import pixel_deletion, pixel_insertion
from bcos_explain.metrics.randomisation import model_randomisation
from bcos_explain.metrics.result import MetricResult
from bcos_explain.metrics.result_files import write_results
from bcos_explain.metrics.similarity import similarity
from bcos_explain.metrics.sparsity import complexity, effective_pixels, sparseness
from bcos_explain.metrics.stability import max_sensitivity, shift_stability

__all__ = [
    "Annotation",
    "CompletenessResult",
    "ConfidentImages",
    "DisjointCells",
    "GridPointingResult",
    "MetricResult",
    "Placement",
    "box_masks",
    "boxes_in_input",
    "cancellation",
    "cell_scores",
    "completeness",
    "complexity",
    "difull",
    "dipart",
    "effective_pixels",
    "energy_inside",
    "energy_pointing_game",
    "energy_pointing_game_masks",
    "grid_pointing_game",
    "image_share",
    "infidelity",
    "masks_in_input",
    "max_sensitivity",
    "model_randomisation",
    "pixel_deletion",
    "pixel_insertion",
    "read_coco",
    "read_voc",
    "sample_grids",
    "segmentation_mask",
    "sensitivity_n",
    "shift_stability",
    "similarity",
    "sparseness",
    "tile",
    "untile",
    "write_results",
]
