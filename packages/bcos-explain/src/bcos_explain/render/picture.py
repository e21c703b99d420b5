"""Pictures of encoded inputs, and pictures on a background."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_explain.render.arrays import ROUNDING, Array, Picture, as_picture, as_tensor


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
