"""Measures of explanations."""

from bcos_explain.metrics.completeness import CompletenessResult, completeness
from bcos_explain.metrics.confident import ConfidentImages
from bcos_explain.metrics.gridpg import (
    GridPointingResult,
    cell_scores,
    grid_pointing_game,
    sample_grids,
    tile,
)

__all__ = [
    "CompletenessResult",
    "ConfidentImages",
    "GridPointingResult",
    "cell_scores",
    "completeness",
    "grid_pointing_game",
    "sample_grids",
    "tile",
]
