"""Pictures of encoded inputs, pictures on a background, and explanations over the input in grey."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_explain.render.arrays import ROUNDING, Array, Picture, as_picture, as_tensor
from bcos_explain.render.contributions import contribution_rgb, symmetric_limit

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
PALE = 0.55
"""How far the grey of the input is moved towards white."""
GROUND = 0.5
"""Grey behind pictures of W without colours: on white, what looks for white cannot be seen."""


def input_image(x: Array, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Picture:
    """Return an RGB picture of an encoded input.

    Args:
        x: (C, H, W). With 6 channels the first 3 are shown, with 3 all, with 2 the first; any other number is
            shown as grey (their mean). 8-bit integers are divided by 255.
        mean: with `std`, undoes a standardisation ``(image - mean) / std`` first; one value a channel that is
            shown.
        std: see `mean`.

    Returns:
        (H, W, 3) in [0, 1]. Values that still leave [0, 1] are stretched to it linearly, all channels alike.

    Raises:
        BcosError: another shape, non-finite values, or a mean and std that do not fit.
    """
    image = as_tensor(x, "x", 3)
    if x.dtype in (torch.uint8, np.uint8):
        image = image / 255
    elif not (x.is_floating_point() if isinstance(x, torch.Tensor) else np.issubdtype(x.dtype, np.floating)):
        raise BcosError(f"x must hold floats in [0, 1] or 8-bit integers, got {x.dtype}")
    if len(image) in (2, 6):
        image = image[: len(image) // 2]
    if (mean is None) != (std is None):
        raise BcosError("mean and std must be given together")
    if mean is not None and std is not None:
        if not len(mean) == len(std) == len(image):
            raise BcosError(f"mean and std need {len(image)} values, got {len(mean)} and {len(std)}")
        image = image * image.new_tensor(std)[:, None, None] + image.new_tensor(mean)[:, None, None]
    if len(image) != 3:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    low, high = float(image.min()), float(image.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        image = (image - low) / (high - low) if high > low else torch.full_like(image, 0.5)
    return as_picture(image.clamp(0, 1))


def on_background(rgba: NDArray[Any], background: float | Sequence[float] | Picture = 1.0) -> Picture:
    """Lay (H, W, 4) over a background: ``α · rgb + (1 - α) · background``.

    Args:
        rgba: in [0, 1], not premultiplied.
        background: grey value, 1 for white, or RGB, or a picture (H, W, 3).

    Returns:
        (H, W, 3)

    Raises:
        BcosError: another shape.
    """
    if rgba.ndim != 3 or rgba.shape[2] != 4:
        raise BcosError(f"on_background needs (H, W, 4), got shape {rgba.shape}")
    alpha = rgba[..., 3:]
    blended: Picture = rgba[..., :3] * alpha + (1 - alpha) * np.asarray(background, dtype=np.float64)
    return blended


def on_ground(rgba: Picture) -> Picture:
    """Lay a picture of W without colours (H, W, 4) on mid-grey, (H, W, 3); return one with colours as it is."""
    return rgba if _has_colours(rgba) else on_background(rgba, GROUND)


def _has_colours(rgba: Picture) -> bool:
    return bool((rgba[..., :1] != rgba[..., 1:3]).any())


def greyed(rgb: Picture, pale: float = PALE) -> Picture:
    """Return the luminance of the input (H, W, 3) in [0, 1], moved towards white, (H, W, 3) of equal channels.

    Raises:
        BcosError: another shape.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise BcosError(f"greyed needs (H, W, 3), got shape {rgb.shape}")
    grey = rgb @ np.asarray(LUMINANCE)
    return np.repeat((grey * (1 - pale) + pale)[..., None], 3, axis=2)


def contribution_overlay(rgb: Picture, map: Array, *, limit: float | None = None, low: float | None = None) -> Picture:
    """Draw contributions over the greyed input: full colour at the limit, the input where nothing contributes.

    ``α · end + (1 - α) · grey`` with ``α = min(1, |map| / limit)`` and the colour of the scale's end on that
    side. For a map without a sign ``α = (map - low) / (limit - low)``, clipped to [0, 1], and its own colour.

    Args:
        rgb: (H, W, 3) in [0, 1].
        map: (H, W), signed.
        limit: as for :func:`bcos_explain.contribution_rgb`; so is `low`.

    Returns:
        (H, W, 3)

    Raises:
        BcosError: shapes that do not fit, or what :func:`bcos_explain.contribution_rgb` refuses.
    """
    values = as_tensor(map, "a contribution map", 2).numpy()
    if rgb.shape != (*values.shape, 3):
        raise BcosError(f"the input must be (H, W, 3) like the map {values.shape}, got {rgb.shape}")
    limit = symmetric_limit(values) if limit is None else limit
    if low is None:
        colours, alpha = contribution_rgb(np.where(values < 0, -limit, limit), limit=limit), np.abs(values) / limit
    else:
        colours, alpha = contribution_rgb(values, limit=limit, low=low), (values - low) / (limit - low)
    return on_background(np.concatenate([colours, alpha.clip(0, 1)[..., None]], axis=-1), greyed(rgb))


def explanation_overlay(rgb: Picture, rgba: Picture) -> Picture:
    """Draw the picture of W, (H, W, 4), over the greyed input, (H, W, 3); around mid-grey if W has no colours.

    Raises:
        BcosError: shapes that do not fit.
    """
    if rgba.shape != (*rgb.shape[:2], 4):
        raise BcosError(f"the picture of W must be (H, W, 4) like the input {rgb.shape}, got {rgba.shape}")
    # pale grey, or, where W is white and black, grey in between: 0.275 to 0.725
    return on_background(rgba, greyed(rgb) - (0 if _has_colours(rgba) else PALE / 2))
