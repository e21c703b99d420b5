"""Explanations over the input in grey."""

import numpy as np

from bcos_core import BcosError
from bcos_explain.render.arrays import Array, Picture, as_tensor
from bcos_explain.render.contributions import contribution_rgb, symmetric_limit
from bcos_explain.render.picture import on_background

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
PALE = 0.55
"""How far the grey of the input is moved towards white."""


def greyed(rgb: Picture, pale: float = PALE) -> Picture:
    """Return the luminance of the input (H, W, 3) in [0, 1], moved towards white, (H, W, 3) of equal channels.

    Raises:
        BcosError: another shape.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise BcosError(f"greyed needs (H, W, 3), got shape {rgb.shape}")
    grey = rgb @ np.asarray(LUMINANCE)
    return np.repeat((grey * (1 - pale) + pale)[..., None], 3, axis=2)


def contribution_overlay(rgb: Picture, map: Array, *, limit: float | None = None) -> Picture:
    """Draw contributions over the greyed input: full colour at the limit, the input where nothing contributes.

    ``α · end + (1 - α) · grey`` with ``α = min(1, |map| / limit)`` and the colour of the scale's end on that
    side.

    Args:
        rgb: (H, W, 3) in [0, 1].
        map: (H, W), signed.
        limit: as for :func:`bcos_explain.contribution_rgb`.

    Returns:
        (H, W, 3)

    Raises:
        BcosError: shapes that do not fit, or what :func:`bcos_explain.contribution_rgb` refuses.
    """
    values = as_tensor(map, "a contribution map", 2).numpy()
    if rgb.shape != (*values.shape, 3):
        raise BcosError(f"the input must be (H, W, 3) like the map {values.shape}, got {rgb.shape}")
    limit = symmetric_limit(values) if limit is None else limit
    ends = contribution_rgb(np.where(values < 0, -limit, limit), limit=limit)
    alpha = (np.abs(values) / limit).clip(0, 1)[..., None]
    return on_background(np.concatenate([ends, alpha], axis=-1), greyed(rgb))


def explanation_overlay(rgb: Picture, rgba: Picture) -> Picture:
    """Draw the picture of W, (H, W, 4), over the greyed input, (H, W, 3).

    Raises:
        BcosError: shapes that do not fit.
    """
    if rgba.shape != (*rgb.shape[:2], 4):
        raise BcosError(f"the picture of W must be (H, W, 4) like the input {rgb.shape}, got {rgba.shape}")
    return on_background(rgba, greyed(rgb))
