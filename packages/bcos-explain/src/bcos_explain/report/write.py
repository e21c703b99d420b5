"""From data to the HTML file."""

import base64
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_core.files import write_atomically
from bcos_explain.render import contribution_rgb, symmetric_limit
from bcos_explain.render.picture import png_bytes
from bcos_explain.report.charts import learning_curves, score_boxes
from bcos_explain.report.data import Confusion, GalleryItem, ReportData

MAX_TABLE_CLASSES = 20
"""A confusion matrix of more classes is shown as a picture, with a table of the most frequent confusions."""
_TOP_CONFUSIONS = 10
_PICTURE_PIXELS = 480


def write_report(path: str | Path, data: ReportData) -> None:
    """Write the report to one HTML file, without scripts and loading nothing.

    The file appears complete or not at all.

    Raises:
        BcosError: pictures or maps with values that cannot be shown.
    """
    write_atomically(path, render_report(data).encode())


def render_report(data: ReportData) -> str:
    """Return the report's HTML; every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bcos_explain", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = lambda value: f"{value:.2f}".replace("-", "−")
    limit = symmetric_limit(np.concatenate([i.map.ravel() for i in data.gallery])) if data.gallery else None
    return environment.get_template("report.html.j2").render(
        data=data,
        curves=learning_curves(data.curves),
        confusion=None if data.confusion is None else _confusion(data.confusion),
        limit=limit,
        classes=[] if limit is None else _by_class(data.gallery, limit),
        gridpg=_gridpg(data) if data.gridpg else None,
    )


def _by_class(gallery: Sequence[GalleryItem], limit: float) -> list[dict[str, Any]]:
    """Sections in the order in which classes first appear."""
    first: dict[str, int] = {}
    for item in gallery:
        first.setdefault(item.true_class, len(first))
    ordered = sorted(gallery, key=lambda item: first[item.true_class])
    return [
        {"name": name, "entries": [_pictures(item, limit) for item in items]}
        for name, items in groupby(ordered, key=lambda item: item.true_class)
    ]


def _pictures(item: GalleryItem, limit: float) -> dict[str, Any]:
    return {
        "item": item,
        "input": _data_uri(item.input),
        "explanation": _data_uri(item.explanation),
        "map": _data_uri(contribution_rgb(item.map, limit=limit)),
        "pixelated": max(item.map.shape) < 128,  # tiny images are enlarged without blur
    }


def _data_uri(picture: NDArray[Any], scale: int = 1) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture, scale)).decode("ascii")


def _confusion(confusion: Confusion) -> dict[str, Any]:
    counts = confusion.counts
    names = list(confusion.class_names)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)  # of each true class
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    most = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:_TOP_CONFUSIONS]]
    shown: dict[str, Any] = {
        "names": names,
        "accuracy": counts.trace() / max(counts.sum(), 1),
        "total": int(counts.sum()),
        "rows": None,
        "picture": None,
        "top": [(names[t], names[p], int(wrong[t, p])) for t, p in most if wrong[t, p] > 0],
    }
    if len(names) <= MAX_TABLE_CLASSES:
        shown["rows"] = [
            (
                name,
                [(int(c), float(s), i == j) for j, (c, s) in enumerate(zip(counts[i], shares[i], strict=True))],
            )
            for i, name in enumerate(names)
        ]
    else:
        shown["picture"] = _data_uri(_heat(shares), max(1, _PICTURE_PIXELS // len(names)))
    return shown


def _heat(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """White to dark blue; the square root makes rare confusions visible."""
    strength = np.sqrt(shares)[..., None]
    heat: NDArray[np.float64] = 1 - strength * (1 - np.array([0.03, 0.19, 0.42]))
    return heat


def _gridpg(data: ReportData) -> dict[str, Any]:
    chance = 1 / data.gridpg_n**2
    scores = {name: [float(s) for s in values] for name, values in data.gridpg.items() if len(values)}
    rows = [(name, fmean(s), stdev(s) if len(s) > 1 else 0.0, len(s)) for name, s in scores.items()]
    return {
        "chance": chance,
        "n": data.gridpg_n,
        "rows": rows,
        "best": max((mean for _, mean, _, _ in rows), default=None),
        "chart": score_boxes(scores, chance) if rows else "",
    }
