"""Sections of the page, made from the data of the report."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcos_explain.registry import is_signed
from bcos_explain.render import contribution_rgb, data_uri, on_ground, symmetric_limit
from bcos_explain.report.boxes import boxes
from bcos_explain.report.data import Confusion, GalleryItem, MetricScores, NeuronItem, NeuronRow, ReportData, Table
from bcos_explain.report.tables import shown_table

MAX_TABLE_CLASSES = 20
"""A confusion matrix of more classes is shown as a picture, with a table of the most frequent confusions."""
_TOP_CONFUSIONS = 10
SMALL = 128
"""Images below this many pixels are enlarged without blur, so that pixels can be told apart."""
_PICTURE_PIXELS = 480
GRIDPG_DESCRIPTION = (
    "{n}×{n} images of different classes form one input, and each of their classes is explained on it. The score is "
    "the share of positive contributions that lies on the image of the explained class: 1 is perfect, a uniform map "
    "scores {chance:.3g}."
)


def confusion_section(confusion: Confusion, gallery: Sequence[GalleryItem]) -> dict[str, Any]:
    """Return matrix or picture, scores of each class, and the most frequent confusions."""
    counts = confusion.counts
    names = list(confusion.class_names)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)  # of each true class
    few = len(names) <= MAX_TABLE_CLASSES
    shown = {(item.true_class, item.predicted_class) for item in gallery}
    return {
        "names": names,
        "accuracy": counts.trace() / max(counts.sum(), 1),
        "total": int(counts.sum()),
        "rows": [
            (name, [_cell(counts, shares, i, j, (name, names[j]) in shown) for j in range(len(names))])
            for i, name in enumerate(names if few else [])
        ],
        "picture": None if few else data_uri(_heat(shares), scale=max(1, _PICTURE_PIXELS // len(names))),
        "classes": shown_table(_class_scores(counts, names)),
        "top": shown_table(_top_confusions(counts, names)),
    }


def _cell(counts: NDArray[np.int64], shares: NDArray[np.float64], i: int, j: int, in_gallery: bool) -> dict[str, Any]:
    share = float(shares[i, j])
    strength = 0.1 + 0.5 * share if i == j else min(0.03 + 2.5 * share, 0.6)
    return {"count": int(counts[i, j]), "strength": strength, "right": i == j, "in_gallery": in_gallery}


def _class_scores(counts: NDArray[np.int64], names: list[str]) -> Table:
    right, images, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    rows = [
        (
            name,
            int(images[k]),
            float(right[k] / images[k]) if images[k] else None,
            float(right[k] / predicted[k]) if predicted[k] else None,
        )
        for k, name in enumerate(names)
    ]
    return Table(title="Each class", columns=("class", "images", "recall", "precision"), rows=rows)


def _top_confusions(counts: NDArray[np.int64], names: list[str]) -> Table:
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    most = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:_TOP_CONFUSIONS]]
    rows = [(names[t], names[p], int(wrong[t, p])) for t, p in most if wrong[t, p] > 0]
    return Table(title="Most frequent confusions", columns=("true class", "taken for", "images"), rows=rows)


def _heat(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """White to dark blue; the square root makes rare confusions visible."""
    strength = np.sqrt(shares)[..., None]
    heat: NDArray[np.float64] = 1 - strength * (1 - np.array([0.03, 0.19, 0.42]))
    return heat


def metric_sections(data: ReportData) -> list[dict[str, Any]]:
    """Return every metric with its box plots, the grid pointing game first."""
    metrics = ([_gridpg(data)] if data.gridpg else []) + list(data.metrics)
    return [{"id": f"metric-{n}", "metric": metric, "boxes": boxes(metric)} for n, metric in enumerate(metrics, 1)]


def _gridpg(data: ReportData) -> MetricScores:
    cells = next(iter(data.gridpg.values())).cluster
    return MetricScores(
        title="Localisation: the grid pointing game",
        results=data.gridpg,
        description=GRIDPG_DESCRIPTION.format(n=math.isqrt(cells), chance=1 / cells),
        limits=(0.0, 1.0),
    )


def gallery_section(gallery: Sequence[GalleryItem]) -> dict[str, Any]:
    """Return items by reason and class, with their pictures and the values to filter by."""
    reasons = list(dict.fromkeys(item.reason for item in gallery))
    classes = list(dict.fromkeys(item.true_class for item in gallery))
    items = sorted(gallery, key=lambda item: (reasons.index(item.reason), classes.index(item.true_class)))
    limit = shared_limit(items)
    return {
        "limit": limit,
        "entries": [{"item": item, "views": gallery_views(item, limit)} for item in items],
        "small": all(max(item.map.shape) < SMALL for item in items),
        "views": max(3 + len(item.baselines) for item in items),
        "baselines": list(dict.fromkeys(name for item in items for name in item.baselines)),
        "true_classes": list(Counter(item.true_class for item in items).items()),
        "predicted_classes": list(Counter(item.predicted_class for item in items).items()),
        "reasons": list(Counter(item.reason for item in items if item.reason).items()),
        "right": sum(item.correct for item in items),
    }


def neuron_sections(rows: Sequence[NeuronRow]) -> list[dict[str, Any]]:
    """Return each channel with the pictures of its images; a channel has one scale."""
    sections = []
    for row in rows:
        if row.items:
            limit = shared_limit(row.items)
            entries = [{"item": item, "views": neuron_views(item, row, limit)} for item in row.items]
            sections.append({"row": row, "limit": limit, "entries": entries})
    return sections


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
        own, low = symmetric_limit(np.asarray(map)), None if is_signed(explainer, map) else float(np.min(map))
        own = own if low is None or own > low else low + 1
        note = f"own scale ±{own:.3g}" if low is None else f"own scale {low:.3g} to {own:.3g}"
        views.append(_view(explainer, f"{explainer} for {name}", note, contribution_rgb(map, limit=own, low=low)))
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
        _view("W as colour", f"Colours that {colours}", "", on_ground(item.explanation)),
        _view("contributions", f"Contributions to {name}", note, contribution_rgb(item.map, limit=limit)),
    ]


def _view(label: str, alt: str, note: str, picture: NDArray[Any]) -> View:
    height, width = picture.shape[:2]
    return View(label, alt, note, data_uri(picture), height, width, max(height, width) < SMALL)
