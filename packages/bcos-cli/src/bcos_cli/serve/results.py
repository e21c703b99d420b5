"""Explanations as HTML, with all pictures, and arrays for the page's script, inside; all text is escaped."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from bcos_cli.explain.sheets import Scale, color_bar, likelihood, map_picture, map_title, percent, weight_picture
from bcos_cli.explain.targets import class_text, target_text
from bcos_cli.explain.writer import npy_bytes
from bcos_cli.serve.examples import Example
from bcos_cli.serve.networks import Prediction
from bcos_core.receipt import Receipt
from bcos_explain import ClassTarget, ExplainedImage, explainer_specs, input_image
from bcos_explain.explainers import remark_lines
from bcos_explain.render import ColorBar, data_uri
from bcos_explain.render.contributions import bar_picture

Layout = Literal["side by side", "overlay"]
LAYOUTS: tuple[Layout, ...] = ("side by side", "overlay")
_SMALL = 128
"""Side in pixels below which pictures are enlarged, each pixel a square."""
_HINT = "point at a pixel"


def examples_html(examples: Sequence[Example]) -> str:
    """Return the images that the page offers, for its script, which uploads the one that is chosen."""
    pictures = "".join(
        f'<button type="button" class="bcos-example" title="{escape(e.title)}" data-file="{escape(e.name)}">'
        f'<img alt="example: {escape(e.title)}" src="data:;base64,{base64.b64encode(e.content).decode("ascii")}">'
        "</button>"
        for e in examples
    )
    return f'<p class="bcos-soft">or try one of these</p><div class="bcos-examples">{pictures}</div>'


def problem(message: str) -> str:
    """Return a one-line message about something that went wrong."""
    return f'<p class="bcos-problem" role="alert">{escape(" ".join(message.split()))}</p>'


def results(
    prediction: Prediction,
    target: ClassTarget,
    name: str,
    explained: Mapping[str, ExplainedImage | str | None],
    *,
    layout: Layout = "side by side",
) -> str:
    """Return HTML of input, W, maps, the contributions of pixels under the cursor, and receipts.

    Args:
        target: the explained class, alone or compared with another.
        name: name of the file.
        explained: explained images by method; a string is the reason for a missing one, None for one still to come.
    """
    done = {method: image for method, image in explained.items() if isinstance(image, ExplainedImage)}
    failed = {method: reason for method, reason in explained.items() if isinstance(reason, str)}
    receipts = [image.explanations[0].receipt for image in done.values()]
    figures = [_input(prediction, name)]
    for method, image in done.items():
        against = "" if target.against is None else f"-not-{target.against}"
        figures += _figures(image, layout, f"{Path(name).stem}.{target.index}{against}.{method}")
    figures += [
        _placeholder(method, prediction.network.queue(method).outlook)
        for method, image in explained.items()
        if image is None
    ]
    return "".join(
        [
            '<section class="bcos-results">',
            _headline(prediction, target, done),
            *(problem(f"{method}: {reason}") for method, reason in failed.items()),
            f'<div class="bcos-figures">{"".join(figures)}</div>',
            *(_receipt(receipt) for receipt in receipts if receipt is not None),
            "</section>",
        ]
    )


def _headline(prediction: Prediction, target: ClassTarget, done: Mapping[str, ExplainedImage]) -> str:
    classes = prediction.network.trained.classes
    predicted, share = prediction.top[0]
    text = f"predicted <strong>{escape(class_text(predicted, classes))}</strong> {percent(share)}"
    explanation = next((image.explanations[0] for image in done.values()), None)
    likely = percent(prediction.probabilities[target.index]) if explanation is None else likelihood(explanation)
    explained = f"explained: <strong>{escape(target_text(target, classes))}</strong> · {likely}"
    text = f"predicted and {explained}" if target == ClassTarget(predicted) else f"{text} · {explained}"
    return f'<p class="bcos-headline" role="status">{text}</p>'


def _input(prediction: Prediction, name: str) -> str:
    rgb = input_image(prediction.image.pixels)
    width, height = prediction.image.size
    notes = [f"{width:,}×{height:,} pixels, {rgb.shape[1]}×{rgb.shape[0]} for the network", *prediction.image.notes]
    return _figure("input", "input", name, rgb, file=f"{Path(name).stem}.input", after=_soft(" · ".join(notes)))


def _figures(image: ExplainedImage, layout: Layout, file: str) -> Iterator[str]:
    """W where there is one, and the map, saved under the name `file`, of an image with one explanation."""
    (explanation,), scale, overlay = image.explanations, Scale.of([image]), layout == "overlay"
    weight = weight_picture(image, explanation, scale, overlay=overlay)
    if weight is not None:
        yield _figure("weight", "W(x)", "what the network looks for", weight, file=f"{file}.W")
    exact = explanation.exact
    title, subtitle = map_title(explanation)
    lines = remark_lines(explanation.remarks)
    array = base64.b64encode(npy_bytes(explanation.map.astype("<f4"))).decode("ascii")  # for the page's script
    yield _figure(
        "map",
        title,
        subtitle or next((spec.summary for spec in explainer_specs() if spec.name == explanation.method), ""),
        map_picture(image, explanation, scale, overlay=overlay),
        data=f' data-unit="{"logit" if exact else ""}" data-npy="{array}" data-file="{escape(file)}.npy"',
        after=_bar(color_bar(explanation, scale))
        + "".join(f'<span class="bcos-soft bcos-remark">{escape(line)}</span>' for line in lines)
        + '<button type="button" class="bcos-save" title="map as a NumPy file (.npy)">save array</button>',
        file=file,
    )


def _figure(
    kind: str, title: str, subtitle: str, picture: NDArray[Any], *, file: str, data: str = "", after: str = ""
) -> str:
    height, width = picture.shape[:2]
    small = " bcos-small" if max(height, width) < _SMALL else ""
    source = data_uri(picture, "png")
    return (
        f'<figure class="bcos-figure" data-kind="{kind}" data-width="{width}" data-height="{height}"{data}>'
        f'<figcaption title="{escape(subtitle)}"><b>{escape(title)}</b> {_soft(subtitle)}</figcaption>'
        f'<div class="bcos-picture{small}" tabindex="0" role="group" aria-label="{escape(title)}, arrow keys move the '
        f'pixel"><img alt="{escape(title)}" draggable="false" src="{source}">'
        f'<i hidden></i></div><output aria-live="polite">{_HINT}</output>{after}'
        f'<button type="button" class="bcos-save" title="as PNG" data-png="{escape(file)}.png">save picture</button>'
        "</figure>"
    )


def _placeholder(method: str, outlook: str) -> str:
    return f'<figure class="bcos-figure"><figcaption><b>{escape(method)}</b></figcaption>{_soft(outlook)}</figure>'


def _bar(bar: ColorBar) -> str:
    """The colours of a map, with numbers; the ends are pointed where values lie beyond."""
    marks = "".join(f'<span style="left:{100 * place:.2f}%">{label}</span>' for place, label in bar.marks())
    colours = data_uri(bar_picture(256, 9, bar), "png")
    return f'<div class="bcos-bar"><img alt="" src="{colours}"><div>{marks}</div></div>{_soft(bar.label)}'


def _receipt(receipt: Receipt) -> str:
    verdict, mark = ("bcos-good", "✓") if receipt.passed else ("bcos-bad", "✗")
    body = "".join(
        f'<tr class="{"bcos-term" if name != name.strip() else ""}"><th>{escape(name.strip())}</th>'
        f"<td>{value}</td></tr>"
        for name, value in receipt.rows
    )
    warnings = "".join(f'<p class="bcos-bad">{escape(warning)}</p>' for warning in receipt.warnings)
    share = f'<span class="bcos-share"><i style="width:{receipt.bar_width:.1f}%"></i></span>'
    return (
        f'<details class="bcos-receipt"><summary><b>receipt</b> {receipt.equation} · <span class="{verdict}">{mark} '
        f"{receipt.verdict}</span> {share} {_soft(receipt.shares)}</summary>"
        f"<table><tbody>{body}</tbody></table></details>{warnings}"
    )


def _soft(text: str) -> str:
    return f'<span class="bcos-soft">{escape(text)}</span>' if text else ""
