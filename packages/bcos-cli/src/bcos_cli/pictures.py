"""Pictures of explanations as files: explanation, contribution map, and an overview beside the input."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bcos_explain import contribution_rgb, explanation_image, on_background, save_png

Picture = np.ndarray[Any, Any]
"""(H, W, 3) RGB or (H, W, 4) RGBA, floats in [0, 1]."""

SIDE = 224
"""Small pictures are enlarged by a whole factor to about this many pixels."""
GAP = 8
"""White pixels between the parts of an overview, after enlarging."""
SMOOTH_224 = 15
"""Side of the mean filter over alpha for images of 224 pixels (Böhle et al., TPAMI 2024).

Smaller for smaller images.
"""


def smoothing(size: int) -> int:
    """Odd side of the mean filter for images of `size` pixels, in proportion to 15 at 224."""
    return 2 * round(SMOOTH_224 * size / 224 / 2 - 0.5) + 1


def exact_pictures(rgb: Picture, x: Tensor, weight: Tensor, contributions: Tensor) -> dict[str, Picture]:
    """Pictures of an exact explanation: W as colours, contributions, and both beside the input.

    Args:
        rgb: (H, W, 1 or 3) 8-bit input.
        x: (C, H, W) encoded input.
        weight: (C, H, W).
        contributions: (H, W).
    """
    explanation = explanation_image(x, weight, smooth=smoothing(x.shape[-1]))
    return {
        "explanation": explanation,
        **contribution_picture(rgb, contributions, between=[on_background(explanation)]),
    }


def contribution_picture(
    rgb: Picture, contributions: Tensor, between: list[Picture] | None = None
) -> dict[str, Picture]:
    """Contributions in blue (against) and red (for), and an overview.

    Input, what comes `between`, contributions.
    """
    colours = contribution_rgb(contributions)
    return {"contributions": colours, "overview": _side_by_side([as_floats(rgb), *(between or []), colours])}


def as_floats(rgb: Picture) -> Picture:
    """8-bit (H, W, 1 or 3) → floats (H, W, 3)."""
    return np.broadcast_to(rgb.astype(np.float32) / 255, (*rgb.shape[:2], 3))


def enlargement(height: int) -> int:
    """Whole factor that brings `height` to about ``SIDE``."""
    return max(1, round(SIDE / height))


def save_pictures(pictures: dict[str, Picture], out: Path, stem: str) -> dict[str, str]:
    """Write each picture as a PNG, small ones enlarged; return the file names by kind."""
    names = {}
    for kind, picture in pictures.items():
        names[kind] = f"{stem}.png" if kind == "overview" else f"{stem}.{kind}.png"
        scale = 1 if kind == "overview" else enlargement(picture.shape[0])
        save_png(picture, out / names[kind], scale=scale)
    return names


def _side_by_side(parts: list[Picture]) -> Picture:
    factor = enlargement(parts[0].shape[0])
    large = [part[..., :3].repeat(factor, 0).repeat(factor, 1) for part in parts]
    gap = np.ones((large[0].shape[0], GAP, 3), np.float32)
    row = [piece for part in large for piece in (gap, part)][1:]
    return np.concatenate(row, axis=1)
