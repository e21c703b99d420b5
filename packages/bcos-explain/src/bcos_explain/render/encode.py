"""Encoding pictures as PNG and WebP."""

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcos_explain.render.arrays import to_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_EFFORT = 50
"""Effort of the WebP encoder, up to 100; more takes twice the time and saves less than 1 %."""


def encoded(image: "Image", format: str) -> bytes:
    """Encode a picture as ``"png"``, or as ``"webp"`` without loss."""
    buffer = io.BytesIO()
    if format == "webp":
        image.save(buffer, format="webp", lossless=True, quality=_EFFORT, method=4)
    else:
        image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def enlarged(picture: NDArray[Any], scale: int) -> "Image":
    """Enlarge a picture (H, W), (H, W, 3) or (H, W, 4), 8-bit or in [0, 1]; each pixel gets `scale` × `scale`.

    Raises:
        BcosError: another shape, or values outside [0, 1].
    """
    from PIL import Image

    return Image.fromarray(to_bytes(picture).repeat(scale, axis=0).repeat(scale, axis=1))


def resized(picture: NDArray[np.uint8], width: int, height: int) -> "Image":
    """Enlarge a picture without blur (each pixel a square), or shrink it by averaging."""
    from PIL import Image

    h, w = picture.shape[:2]
    if width % w == 0 and height % h == 0:
        return Image.fromarray(picture.repeat(height // h, axis=0).repeat(width // w, axis=1))
    return Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)


def data_uri(picture: NDArray[Any], format: str = "webp", scale: int = 1) -> str:
    """Return the ``data:`` address of a picture, without loss.

    Measured on photographs and their explanations, WebP takes a third (maps) to three quarters (photographs) of
    the bytes of PNG. It may change colours of pixels that are fully transparent.

    Args:
        picture: as for :func:`enlarged`; so is `scale`.
        format: ``"webp"`` or ``"png"``.

    Raises:
        BcosError: another shape, or values outside [0, 1].
    """
    data = encoded(enlarged(picture, scale), format)
    return f"data:image/{format};base64,{base64.b64encode(data).decode('ascii')}"
