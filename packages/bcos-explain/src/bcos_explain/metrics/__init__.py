"""Measures of explanations."""

from bcos_explain.metrics.completeness import CompletenessResult, completeness
from bcos_explain.metrics.confident import ConfidentImages
from bcos_explain.metrics.gridpg import grid_pointing_game
from bcos_explain.metrics.grids import GridPointingResult, cell_scores, sample_grids, tile
from bcos_explain.metrics.infidelity import infidelity
from bcos_explain.metrics.noise import max_sensitivity
from bcos_explain.metrics.perturbation import pixel_deletion, pixel_insertion
from bcos_explain.metrics.randomisation import model_randomisation
from bcos_explain.metrics.result import MetricResult
from bcos_explain.metrics.sensitivity_n import sensitivity_n
from bcos_explain.metrics.shifts import shift_stability
from bcos_explain.metrics.sparsity import complexity, effective_pixels, sparseness
from bcos_explain.metrics.writing import write_results

__all__ = [
    "CompletenessResult",
    "ConfidentImages",
    "GridPointingResult",
    "MetricResult",
    "cell_scores",
    "completeness",
    "complexity",
    "effective_pixels",
    "grid_pointing_game",
    "infidelity",
    "max_sensitivity",
    "model_randomisation",
    "pixel_deletion",
    "pixel_insertion",
    "sample_grids",
    "sensitivity_n",
    "shift_stability",
    "sparseness",
    "tile",
    "write_results",
]
