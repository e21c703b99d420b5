"""Pictures: from an encoded input, onto a background, into a file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_core.files import write_atomically
from bcos_explain.render.arrays import Array, Picture, as_picture, as_tensor

FORMATS = ("png", "svg", "webp")
_ROUNDING = 1e-3
"""How far values may lie outside [0, 1] and still be an image in [0, 1]."""


def input_image(x: Array, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Picture:
    """RGB picture of an encoded input.

    Args:
        x: (C, H, W). Of 6 channels the first 3 are shown, of 2 the first, 3 as they are, 1 and any other
            number as grey (their mean).
        mean: with `std`, undoes a standardisation ``(image - mean) / std`` first; one value a channel that is
            shown.
        std: see `mean`.

    Returns:
        (H, W, 3) in [0, 1]. Values that still leave [0, 1] are stretched to it linearly, all channels alike.

    Raises:
        BcosError: another shape, non-finite values, or a mean and std that do not fit.
    """
    image = as_tensor(x, "x", 3)
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
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        image = (image - low) / (high - low) if high > low else torch.full_like(image, 0.5)
    return as_picture(image.clamp(0, 1))


def on_background(rgba: NDArray[Any], background: float | Sequence[float] = 1.0) -> Picture:
    """Lay (H, W, 4) over a background: ``α · rgb + (1 - α) · background``.

    Args:
        rgba: in [0, 1], not premultiplied.
        background: grey value, 1 for white, or RGB.

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


def png_bytes(array: NDArray[Any], scale: int = 1) -> bytes:
    """Encode (H, W), (H, W, 3) or (H, W, 4) in [0, 1] as PNG, each pixel `scale` times as wide and high.

    Raises:
        BcosError: another shape, values outside [0, 1], or a scale below 1.
    """
    from PIL import Image

    values = _bytes_of(array)
    if not isinstance(scale, int) or scale < 1:
        raise BcosError(f"scale must be a whole number of at least 1, got {scale!r}")
    enlarged = values.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(enlarged).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture in 8 bits.

    Raises:
        BcosError: another shape, or values outside [0, 1].
    """
    values = np.asarray(array)
    if values.ndim not in (2, 3) or values.size == 0 or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise BcosError(f"a picture must be (H, W), (H, W, 3) or (H, W, 4), got shape {values.shape}")
    if values.dtype != np.uint8:
        if not (values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):
            raise BcosError(
                f"a picture must have values in [0, 1], got {values.min():.3g} to {values.max():.3g}; "
                "colour contribution maps with contribution_rgb first"
            )
        values = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return values


def picture_bytes(array: NDArray[Any], format: str, *, side: int | None = None) -> bytes:
    """Encode a picture without text, transparency kept, as PNG, WebP (without loss) or SVG (a PNG inside).

    Args:
        array: (H, W, 3) or (H, W, 4), floats in [0, 1] or 8-bit.
        format: ``"png"``, ``"webp"`` or ``"svg"``.
        side: width in pixels, enlarged as squares or shrunk by averaging; None for that of the array.

    Raises:
        BcosError: another shape, values or format.
    """
    from bcos_explain.render.raster import encoded, resized
    from bcos_explain.render.sheet import Panel, Sheet
    from bcos_explain.render.svg import svg_of

    if format not in FORMATS:
        raise BcosError(f"pictures can be {', '.join(FORMATS)}, got {format!r}")
    values = _bytes_of(array)
    height, width = values.shape[:2]
    wide = width if side is None else side
    high = max(1, round(height * wide / width))
    if format == "svg":
        return svg_of(Sheet(wide, high, "none", [Panel(0, 0, wide, high, values)])).encode()
    return encoded(resized(values, wide, high), format)


def save_png(array: NDArray[Any], path: str | Path, scale: int = 1) -> None:
    """Write a picture as PNG; the file appears complete or not at all.

    Args:
        array: (H, W), (H, W, 3) or (H, W, 4), values in [0, 1], or 8-bit integers.
        path: of the file; missing folders are made.
        scale: each pixel becomes a square of this many pixels.

    Raises:
        BcosError: a shape, values or a scale that make no picture.
    """
    write_atomically(path, png_bytes(array, scale))
