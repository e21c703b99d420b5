"""Pictures inside the page, and the pictures of each explained image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcos_explain.render import contribution_rgb, data_uri, symmetric_limit
from bcos_explain.report.items import GalleryItem, NeuronItem, NeuronRow

SMALL = 128
"""Images below this many pixels are enlarged without blur, so that pixels can be told apart."""


class View(NamedTuple):
    """One picture with its captions."""

    label: str
    """Text below the picture."""
    alt: str
    note: str
    """Added to the caption of the enlarged picture."""
    uri: str
    height: int
    width: int
    pixelated: bool


def shared_limit(items: Sequence[GalleryItem] | Sequence[NeuronItem]) -> float:
    """Return the end of the colour scale of the maps of all items."""
    return symmetric_limit(np.concatenate([item.map.ravel() for item in items]))


def gallery_views(item: GalleryItem, limit: float) -> list[View]:
    """Return input, explanation, contributions on the scale that all items share, and a view for each baseline."""
    name = item.predicted_class
    note = f"scale ±{limit:.3g}, the same for all images"
    views = _three_views(item, f"Input, predicted as {name}", f"the network looked for in {name}", name, note, limit)
    for explainer, map in item.baselines.items():
        own = symmetric_limit(np.asarray(map))
        note = f"own scale ±{own:.3g}"
        views.append(_view(explainer, f"{explainer} for {name}", note, contribution_rgb(map, limit=own)))
    return views


def neuron_views(item: NeuronItem, row: NeuronRow, limit: float) -> list[View]:
    """Return input, explanation and contributions, on the scale that the items of the row share."""
    name = f"channel {row.channel} of {row.layer}"
    note = f"scale ±{limit:.3g}, the same for this channel"
    return _three_views(item, f"Input that activates {name}", f"{name} looked for", name, note, limit)


def _three_views(
    item: GalleryItem | NeuronItem, input: str, colours: str, name: str, note: str, limit: float
) -> list[View]:
    return [
        _view("original", input, "", item.input),
        _view("W as colour", f"Colours that {colours}", "", item.explanation),
        _view("contributions", f"Contributions to {name}", note, contribution_rgb(item.map, limit=limit)),
    ]


def _view(label: str, alt: str, note: str, picture: NDArray[Any]) -> View:
    height, width = picture.shape[:2]
    return View(label, alt, note, data_uri(picture), height, width, max(height, width) < SMALL)
