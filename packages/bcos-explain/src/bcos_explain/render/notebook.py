"""What a notebook and pyplot show of an explanation: input, W, contributions and the receipt. Loads nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor

from bcos_core import BcosError, Explanation
from bcos_core.receipt import Receipt, receipts
from bcos_explain.render.arrays import Picture
from bcos_explain.render.contributions import contribution_rgb, plot_contribution_map, symmetric_limit
from bcos_explain.render.files import data_uri
from bcos_explain.render.grid import laid_on
from bcos_explain.render.picture import input_image, on_ground
from bcos_explain.render.weight_image import explanation_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES_SHOWN = 4
TARGETS_SHOWN = 3
SIDE = 192
"""Width of each picture in pixels."""
_HEADS = ("input", "W(x)", "contributions")
_IMAGE = f'<td><img width="{SIDE}" style="image-rendering:pixelated" src="{{}}"></td>'
_INCHES = 2.6
"""Side of each picture in a figure."""


def explanation_html(explanation: Explanation) -> str | None:
    """Return HTML of the first images and targets of an explanation; None if its inputs are not images (N, C, H, W)."""
    if explanation.input.ndim != 4:
        return None
    rows = []
    for row in _rows(explanation):
        pictures = [row.weight, contribution_rgb(row.map, limit=row.limit)]
        if row.input is not None:
            pictures.insert(0, row.input)
        cells = "".join(_IMAGE.format(data_uri(picture, "png")) for picture in pictures)
        before = "<td></td>" if row.input is None else ""
        rows.append(f"<tr>{before}{cells}<td>{_receipt(row.target, row.receipt, row.limit)}</td></tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in (*_HEADS, "receipt"))
    more = _more(explanation)
    note = f"<p>{escape(more)}</p>" if more else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{note}"


def plot_explanation(explanation: Explanation) -> "Figure":
    """Draw the first images and targets of an explanation with pyplot, whose current figure it becomes.

    Raises:
        BcosError: inputs that are not images (N, C, H, W).
    """
    from matplotlib import pyplot as plt

    if explanation.input.ndim != 4:
        shape = tuple(explanation.input.shape)
        raise BcosError(f"plot draws images (N, C, H, W), got inputs {shape}; draw explanation.map yourself")
    rows = list(_rows(explanation))
    size = (_INCHES * len(_HEADS) * 1.1, (_INCHES + 0.3) * len(rows))
    figure, places = plt.subplots(len(rows), len(_HEADS), figsize=size, squeeze=False, layout="constrained")
    for row, (left, middle, right) in zip(rows, places, strict=True):
        if row.input is not None:
            left.imshow(row.input, interpolation="nearest")
        left.set_axis_off()
        middle.imshow(row.weight, interpolation="nearest")
        middle.set_axis_off()
        middle.set_title(f"target {row.target}: {row.receipt.equation}", fontsize="small")
        plot_contribution_map(row.map, right, limit=row.limit, colorbar=True, label="contribution")
    if more := _more(explanation):
        figure.supxlabel(more, fontsize="small")
    return figure


@dataclass(frozen=True)
class _Row:
    """What is shown of one target of one image."""

    input: Picture | None
    """None where it was shown before, for another target."""
    weight: NDArray[Any]
    map: Tensor
    limit: float
    target: int
    receipt: Receipt


def _rows(explanation: Explanation) -> Iterator[_Row]:
    checked = receipts(explanation)
    n = len(explanation)
    weights = explanation.weight.reshape(n, -1, *explanation.input.shape[1:])
    maps = explanation.map.reshape(n, -1, *explanation.input.shape[2:])
    targets = explanation.target.reshape(n, -1)
    for i in range(min(n, IMAGES_SHOWN)):
        x = explanation.input[i]
        limit = symmetric_limit(maps[i, :TARGETS_SHOWN])
        for t in range(min(targets.shape[1], TARGETS_SHOWN)):
            w = explanation_image(x, weights[i, t], smooth=None)
            picture = None if t else input_image(x)
            yield _Row(picture, laid_on(on_ground(w), "white"), maps[i, t], limit, int(targets[i, t]), checked[i][t])


def _more(explanation: Explanation) -> str:
    """How many images and targets are not shown."""
    left = len(explanation) - IMAGES_SHOWN, explanation.target[0].numel() - TARGETS_SHOWN
    more = [f"{count} more {what}" for count, what in zip(left, ("images", "targets"), strict=True) if count > 0]
    return f"… {' and '.join(more)}" if more else ""


def _receipt(target: int, receipt: Receipt, limit: float) -> str:
    (_, score), *others = receipt.rows
    lines = [(f"target {target}", score), *others, ("red and blue", f"±{limit:.3g} per pixel")]
    texts = [f"{escape(name)}: <b>{escape(value)}</b>" for name, value in lines]
    verdict = receipt.verdict if receipt.passed else f"does not add up: {receipt.verdict}"
    return "<br>".join([*texts, escape(verdict), escape(receipt.bar), *map(escape, receipt.warnings)])
