"""Small things about pictures that commands share."""

from typing import Any

import numpy as np

from bcos_explain.render import smoothing

__all__ = ["as_floats", "smoothing"]

Picture = np.ndarray[Any, Any]
"""(H, W, 3) RGB or (H, W, 4) RGBA, floats in [0, 1]."""


def as_floats(rgb: Picture) -> Picture:
    """8-bit (H, W, 1 or 3) → floats (H, W, 3)."""
    return np.broadcast_to(rgb.astype(np.float32) / 255, (*rgb.shape[:2], 3))
