"""Pictures inside of the page, and the pictures of each explained image."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_explain.render import contribution_rgb, symmetric_limit
from bcos_explain.report.items import GalleryItem, NeuronItem, NeuronRow

SMALL = 128
"""Images below this many pixels are enlarged without blur, so that pixels can be told apart."""

_ROUNDING = 1e-3
"""How far values may lie outside [0, 1] and still be a picture."""
_EFFORT = 50
"""Of the encoder, up to 100; more takes twice the time and saves less than 1 %."""


class View(NamedTuple):
    """One picture with its words."""

    label: str
    """Below the picture."""
    alt: str
    note: str
    """Added to the caption of the enlarged picture."""
    uri: str
    height: int
    width: int
    pixelated: bool


def data_uri(picture: NDArray[Any], scale: int = 1) -> str:
    """``data:`` address of a picture, as WebP without loss.

    Measured on photographs and their explanations, it takes a third (maps) to three quarters (photographs) of
    the bytes of PNG.

    Args:
        picture: (H, W, 3) or (H, W, 4) in [0, 1]. Colours of pixels that are fully transparent may change.
        scale: each pixel becomes a square of this many pixels.

    Raises:
        BcosError: values outside [0, 1].
    """
    from PIL import Image

    values = np.asarray(picture)
    if not (values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):  # also refuses NaN
        raise BcosError(
            f"a picture in a report must have values in [0, 1], got {values.min():.3g} to {values.max():.3g}; "
            "make it with input_image or explanation_image"
        )
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="webp", lossless=True, quality=_EFFORT)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shared_limit(items: Sequence[GalleryItem] | Sequence[NeuronItem]) -> float:
    """End of the colour scale of the maps of all items."""
    return symmetric_limit(np.concatenate([item.map.ravel() for item in items]))


def gallery_views(item: GalleryItem, limit: float) -> list[View]:
    """Input, explanation, contributions on the scale that all items share, and a view for each baseline."""
    name = item.predicted_class
    shared = f"scale ±{limit:.3g}, the same for all images"
    views = [
        _view("original", f"Input, predicted as {name}", "", item.input),
        _view("W as colour", f"Colours that the network looked for in {name}", "", item.explanation),
        _view("contributions", f"Contributions to {name}", shared, contribution_rgb(item.map, limit=limit)),
    ]
    for explainer, map in item.baselines.items():
        own = symmetric_limit(np.asarray(map))
        note = f"own scale ±{own:.3g}"
        views.append(_view(explainer, f"{explainer} for {name}", note, contribution_rgb(map, limit=own)))
    return views


def neuron_views(item: NeuronItem, row: NeuronRow, limit: float) -> list[View]:
    """Input, explanation and contributions, on the scale that the items of the row share."""
    neuron = f"channel {row.channel} of {row.layer}"
    note = f"scale ±{limit:.3g}, the same for this channel"
    return [
        _view("original", f"Input that activates {neuron}", "", item.input),
        _view("W as colour", f"Colours that {neuron} looked for", "", item.explanation),
        _view("contributions", f"Contributions to {neuron}", note, contribution_rgb(item.map, limit=limit)),
    ]


def _view(label: str, alt: str, note: str, picture: NDArray[Any]) -> View:
    height, width = picture.shape[:2]
    return View(label, alt, note, data_uri(picture), height, width, max(height, width) < SMALL)
