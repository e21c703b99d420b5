"""What a notebook shows of an explanation: input, W, contributions and the receipt. Loads nothing."""

from html import escape
from typing import Any

from numpy.typing import NDArray

from bcos_core import Explanation
from bcos_core.receipt import Receipt, receipts
from bcos_explain.render.contributions import contribution_rgb, symmetric_limit
from bcos_explain.render.files import data_uri
from bcos_explain.render.grid import laid_on
from bcos_explain.render.picture import input_image, on_ground
from bcos_explain.render.weight_image import explanation_image, smoothing

IMAGES_SHOWN = 4
TARGETS_SHOWN = 3
SIDE = 192
"""Width of each picture in pixels."""
_IMAGE = f'<td><img width="{SIDE}" style="image-rendering:pixelated" src="{{}}"></td>'


def explanation_html(explanation: Explanation) -> str | None:
    """Return HTML of the first images and targets of an explanation; None if its inputs are not images (N, C, H, W)."""
    if explanation.input.ndim != 4:
        return None
    n = len(explanation.target)
    checked = receipts(explanation)
    weights = explanation.weight.reshape(n, -1, *explanation.input.shape[1:])
    maps = explanation.map.reshape(n, -1, *explanation.input.shape[2:])
    targets = explanation.target.reshape(n, -1)
    rows = []
    for i in range(min(n, IMAGES_SHOWN)):
        x = explanation.input[i]
        limit = symmetric_limit(maps[i, :TARGETS_SHOWN])
        for t in range(min(targets.shape[1], TARGETS_SHOWN)):
            w = explanation_image(x, weights[i, t], smooth=smoothing(min(x.shape[1:])))
            pictures: list[NDArray[Any]] = [laid_on(on_ground(w), "white"), contribution_rgb(maps[i, t], limit=limit)]
            if t == 0:
                pictures.insert(0, input_image(x))
            cells = "".join(_IMAGE.format(data_uri(picture, "png")) for picture in pictures)
            before = "" if t == 0 else "<td></td>"
            rows.append(f"<tr>{before}{cells}<td>{_receipt(int(targets[i, t]), checked[i][t], limit)}</td></tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in ("input", "W(x)", "contributions", "receipt"))
    left = n - IMAGES_SHOWN, targets.shape[1] - TARGETS_SHOWN
    more = [f"{count} more {what}" for count, what in zip(left, ("images", "targets"), strict=True) if count > 0]
    note = f"<p>… {escape(' and '.join(more))}</p>" if more else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{note}"


def _receipt(target: int, receipt: Receipt, limit: float) -> str:
    (_, score), *others = receipt.rows
    lines = [(f"output {target}", score), *others, ("red and blue", f"±{limit:.3g} per pixel")]
    texts = [f"{escape(name)}: <b>{escape(value)}</b>" for name, value in lines]
    verdict = receipt.verdict if receipt.passed else f"does not add up: {receipt.verdict}"
    return "<br>".join([*texts, escape(verdict), escape(receipt.bar), *map(escape, receipt.warnings)])
