"""Learning curves as SVG inside an HTML page.

Lines and text take the colours of the page, so that they can be read on light and dark backgrounds, and
nothing in the SVG refers to anything outside of it.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the colour of the text until the SVG is written."""
_FAINT = "#040506"
"""Stands for the colour of grid lines."""
_VALIDATION = ("validation", "#db2777")
_PANELS = {
    "loss": {"train_loss": ("training", "#d97706"), "val_loss": _VALIDATION, "test_loss": ("test", "#2563eb")},
    "accuracy (top-1)": {"val_top1": _VALIDATION, "test_top1": ("test", "#0d9488")},
    "learning rate": {"lr": ("learning rate", "#7c3aed")},
}
"""Name and colour of each line, by the key of its values."""
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "bcos",  # the same data give the same file
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def learning_curves(epochs: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Return SVGs of loss, accuracy and learning rate over epochs, as far as they have values.

    Missing and non-finite values leave gaps.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    charts = []
    for title, lines in _PANELS.items():
        series = [(line, points) for key, line in lines.items() if (points := _points(epochs, key))]
        if not series:
            continue
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(3.9, 2.7), layout="constrained", frameon=False)
            ax = figure.add_subplot()
            ax.patch.set_visible(False)
            for (name, colour), points in series:
                marker = "o" if len(points) < 30 else None
                ax.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker, ms=3)
            ax.set(title=title, xlabel="epoch")
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            if title == "loss":
                ax.set_ylim(bottom=0)
            if len(lines) > 1:
                ax.legend()
            charts.append(_svg(figure, title.split()[0], f"{title} over epochs"))
    return charts


def _points(epochs: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    points = []
    for number, epoch in enumerate(epochs):
        x, y = epoch.get("epoch", number), epoch.get(key)
        if x is not None and y is not None and math.isfinite(y):
            points.append((float(x), float(y)))
    return points


def _svg(figure: "Figure", name: str, description: str) -> str:
    """Return the SVG element for an HTML page: no declarations, no metadata, ids that start with `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    head = rf'<svg \1 role="img" aria-label="{description}">'
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', head, svg, count=1)
    return svg.replace(_INK, "currentColor").replace(_FAINT, "var(--line)")
