"""Answers as HTML: pictures, and arrays that the page's script reads and saves, are inside; all text is escaped."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bcos_cli.explain.answers import EXACT, Subject
from bcos_cli.explain.pictures import as_floats
from bcos_cli.explain.scales import scales_of
from bcos_cli.explain.sheets import LOGITS, NO_LOGITS, contributions, explanation, likelihood, percent
from bcos_cli.explain.targets import class_text
from bcos_cli.serve.requests import Look
from bcos_explain import explainer_specs
from bcos_explain.explainers import remark_lines
from bcos_explain.receipt import Receipt, number
from bcos_explain.render import contribution_overlay, explanation_overlay
from bcos_explain.render.colorbar import tick_text, ticks
from bcos_explain.render.picture import png_bytes

Layout = Literal["side by side", "overlay"]
LAYOUTS: tuple[Layout, ...] = ("side by side", "overlay")
_SMALL = 128
"""Side in pixels below which pictures are enlarged as squares."""
_HINT = "point at a pixel"


def problem(message: str) -> str:
    """Something that went wrong, in one line."""
    return f'<p class="bcos-problem" role="alert">{escape(" ".join(message.split()))}</p>'


def results(
    look: Look, target: int, name: str, answers: Mapping[str, Subject | str | None], *, layout: Layout = "side by side"
) -> str:
    """Input, W and maps, what the pixels under the cursor contribute, and receipts.

    Args:
        look: the image.
        target: the explained class.
        name: of the file.
        answers: by method; a string says why there is none, None is still being worked on.
        layout: maps on their own, or over the input in grey.
    """
    done = {method: answer for method, answer in answers.items() if isinstance(answer, Subject)}
    failed = {method: answer for method, answer in answers.items() if isinstance(answer, str)}
    figures = [_input(look, name)]
    for method, subject in done.items():
        figures += _figures(subject, layout, f"{Path(name).stem}.{target}.{method}.npy")
    figures += [_waiting(method) for method, answer in answers.items() if answer is None]
    return "".join(
        [
            '<section class="bcos-results">',
            _headline(look, target, done),
            *(problem(f"{method}: {reason}") for method, reason in failed.items()),
            f'<div class="bcos-figures">{"".join(figures)}</div>',
            *(_receipt(s.answers[0].receipt) for s in done.values() if s.answers[0].receipt is not None),
            "</section>",
        ]
    )


def _headline(look: Look, target: int, done: Mapping[str, Subject]) -> str:
    classes = look.network.trained.classes
    predicted, share = look.top[0]
    text = f"predicted <strong>{escape(class_text(predicted, classes))}</strong> {percent(share)}"
    answer = next((s.answers[0] for s in done.values()), None)
    likely = percent(look.probabilities[target]) if answer is None else likelihood(answer)
    if target == predicted:
        text = f"predicted and explained: <strong>{escape(class_text(target, classes))}</strong> · {likely}"
    else:
        text += f" · explained: <strong>{escape(class_text(target, classes))}</strong> · {likely}"
    return f'<p class="bcos-headline" role="status">{text}</p>'


def _input(look: Look, name: str) -> str:
    rgb = look.image.pixels.permute(1, 2, 0).numpy()
    width, height = look.image.size
    notes = [f"{width:,}×{height:,} pixels, seen as {rgb.shape[1]}×{rgb.shape[0]}", *look.image.notes]
    return _figure("input", "input", name, as_floats(rgb), after=_soft(" · ".join(notes)))


def _figures(subject: Subject, layout: Layout, file: str) -> Iterator[str]:
    """W where there is one, and the map, saved under the name `file`, of a subject with one answer."""
    answer, scales = subject.answers[0], scales_of([subject])
    rgb, map = as_floats(subject.arrays["rgb"]), subject.arrays["map.0"]
    limit = scales.limits[answer.method]
    exact = answer.method == EXACT
    w = explanation(subject, 0, scales)
    if w is not None:
        picture = explanation_overlay(rgb, w) if layout == "overlay" else w
        yield _figure("weight", "W(x)", "what the network looks for", picture)
    over = layout == "overlay"
    yield _figure(
        "map",
        "contributions W(x)·x" if exact else answer.method,
        "red for the class, blue against it" if exact else _summary(answer.method),
        contribution_overlay(rgb, map, limit=limit) if over else contributions(subject, 0, scales),
        data=f' data-unit="{"logit" if exact else ""}" data-npy="{_base64(_npy(map))}" data-file="{escape(file)}"',
        after=_bar(limit, LOGITS if exact else NO_LOGITS, clipped=bool((np.abs(map) > limit).any()))
        + ("" if exact else _soft(f"sum {number(answer.contributions)}, logit {number(answer.logit)}"))
        + "".join(f'<span class="bcos-soft bcos-remark">{escape(line)}</span>' for line in remark_lines(answer.remarks))
        + '<button type="button" class="bcos-save">save array (.npy)</button>',
    )


def _figure(kind: str, title: str, subtitle: str, picture: NDArray[Any], *, data: str = "", after: str = "") -> str:
    height, width = picture.shape[:2]
    small = " bcos-small" if max(height, width) < _SMALL else ""
    source = f"data:image/png;base64,{_base64(png_bytes(picture))}"
    return (
        f'<figure class="bcos-figure" data-kind="{kind}" data-width="{width}" data-height="{height}"{data}>'
        f'<figcaption title="{escape(subtitle)}"><b>{escape(title)}</b> {_soft(subtitle)}</figcaption>'
        f'<div class="bcos-picture{small}" tabindex="0" role="group" aria-label="{escape(title)}, arrow keys move the '
        f'pixel"><img alt="{escape(title)}" draggable="false" src="{source}">'
        f'<i hidden></i></div><output aria-live="polite">{_HINT}</output>{after}</figure>'
    )


def _summary(method: str) -> str:
    """What a method does."""
    return next((spec.summary for spec in explainer_specs() if spec.name == method), "")


def _waiting(method: str) -> str:
    return f'<figure class="bcos-figure"><figcaption><b>{escape(method)}</b></figcaption>{_soft("working …")}</figure>'


def _bar(limit: float, label: str, *, clipped: bool) -> str:
    """The colours of a map from -limit to limit, with numbers; the ends are pointed where values lie beyond."""
    marks = "".join(
        f'<span style="left:{50 * (1 + value / limit):.2f}%">{tick_text(value)}</span>' for value in ticks(limit)
    )
    pointed = ' class="bcos-pointed"' if clipped else ""
    return f'<div class="bcos-bar"><i{pointed}></i><div>{marks}</div></div>{_soft(label)}'


def _receipt(receipt: Receipt) -> str:
    verdict, mark = ("bcos-good", "✓") if receipt.passed else ("bcos-bad", "✗")
    body = "".join(
        f'<tr class="{"bcos-term" if name != name.strip() else ""}"><th>{escape(name.strip())}</th>'
        f"<td>{value}</td></tr>"
        for name, value in receipt.rows
    )
    warnings = "".join(f'<p class="bcos-bad">{escape(warning)}</p>' for warning in receipt.warnings)
    share = f'<span class="bcos-share"><i style="width:{100 * receipt.image_share:.1f}%"></i></span>'
    return (
        f'<details class="bcos-receipt"><summary><b>receipt</b> {receipt.equation} · <span class="{verdict}">{mark} '
        f"{receipt.verdict}</span> {share} {_soft(f'{round(100 * receipt.image_share)} % from the image')}</summary>"
        f"<table><tbody>{body}</tbody></table></details>{warnings}"
    )


def _soft(text: str) -> str:
    return f'<span class="bcos-soft">{escape(text)}</span>' if text else ""


def _npy(array: NDArray[Any]) -> bytes:
    """An array of float32 as a file of NumPy's."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype="<f4"))
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
