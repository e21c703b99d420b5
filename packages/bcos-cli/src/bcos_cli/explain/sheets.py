"""From answers to pictures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bcos_cli.explain.answers import EXACT, Answer, Subject
from bcos_cli.explain.pictures import as_floats
from bcos_cli.explain.scales import Scales
from bcos_cli.explain.targets import Question, class_text
from bcos_explain.explainers import Remark, remark_lines
from bcos_explain.receipt import Receipt, number
from bcos_explain.render import (
    Background,
    ColorBar,
    Sheet,
    Tile,
    contribution_overlay,
    contribution_rgb,
    explanation_of_parts,
    explanation_overlay,
    grid,
)

SIDE = 224
"""Pictures are enlarged by a whole factor to about this many pixels."""
LOGITS = "logit per pixel"
NO_LOGITS = "not exact, per pixel"
_TERMS = 4

Picture = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How pictures of an image look."""

    classes: Sequence[str]
    side: int
    background: Background
    colorbar: bool = True
    overlay: bool = False
    """Paint over the input in grey."""


def side_of(pixels: int, wanted: int | None) -> int:
    """Width of a picture: the wanted one, or a whole multiple of its pixels near :data:`SIDE`."""
    return wanted or max(1, round(SIDE / pixels)) * pixels


def explanation(subject: Subject, i: int, scales: Scales) -> Picture | None:
    """RGBA (H, W, 4) of the W of answer number i; None for methods that have none."""
    if f"colours.{i}" not in subject.arrays:
        return None
    return explanation_of_parts(subject.arrays[f"colours.{i}"] / 255, subject.arrays[f"strength.{i}"], scales.alpha)


def contributions(subject: Subject, i: int, scales: Scales) -> Picture:
    """RGB (H, W, 3) of the map of answer number i."""
    return contribution_rgb(subject.arrays[f"map.{i}"], limit=scales.limits[subject.answers[i].method])


def overview(subject: Subject, scales: Scales, style: Style, *, heading: str, original: str = "") -> Sheet:
    """Input, W and contributions with titles, scales and receipts.

    In one row for one question; else with a column for each of them.

    Args:
        subject: with its arrays.
        scales: of colour and opacity.
        style: of the pictures.
        heading: what the image is called.
        original: below the title of the input, such as its size.
    """
    questions = list(dict.fromkeys(answer.question for answer in subject.answers))
    predicted = f"{class_text(subject.predicted, style.classes)} {percent(subject.confidence)}"
    entered = Tile(as_floats(subject.arrays["rgb"]), "input", original)
    if len(questions) > 1:
        columns = [list(_column(subject, q, scales, style)) for q in questions]
        rows: list[list[Tile | None]] = [[None, *tiles] for tiles in zip(*columns, strict=True)]
        rows[0][0] = entered
        footer = remarks_below(subject.answers)
    else:
        rows = [
            [entered, *(tile for i in range(len(subject.answers)) for tile in answer_tiles(subject, i, scales, style))]
        ]
        footer = [*_receipt_lines(subject.answers), *remarks_below(subject.answers)]
        if questions[0] != Question(subject.predicted):
            heading = f"{heading} · {questions[0].text(style.classes)}: {likelihood(subject.answers[0])}"
        else:
            predicted = f"{predicted} · logit {number(subject.answers[0].logit)}"
    return grid(
        rows,
        side=style.side,
        heading=f"{heading} · predicted: {predicted}",
        footer=footer,
        background=style.background,
    )


def percent(share: float) -> str:
    """A probability, never rounded to certainty."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


def _column(subject: Subject, question: Question, scales: Scales, style: Style) -> Iterator[Tile]:
    """Tiles of one question from top to bottom, its name above the first."""
    numbered = [(i, answer) for i, answer in enumerate(subject.answers) if answer.question == question]
    first = True
    for i, answer in numbered:
        receipt = () if answer.receipt is None else _short_receipt(answer.receipt)
        for tile in answer_tiles(subject, i, scales, style, notes=receipt):
            named = replace(tile, title=answer.question.text(style.classes), subtitle=likelihood(answer))
            yield named if first else tile
            first = False


def _short_receipt(receipt: Receipt) -> tuple[str, ...]:
    share = f"{round(100 * receipt.image_share)} % from the image"
    return (receipt.equation, f"{receipt.verdict} · {share}", *receipt.warnings)


def likelihood(answer: Answer) -> str:
    """Probability and logit of an answer's target, or the difference of two logits."""
    if answer.question.against is not None:
        return f"difference of logits {number(answer.logit)}"
    return f"{percent(answer.probability)} · logit {number(answer.logit)}"


def answer_tiles(
    subject: Subject, i: int, scales: Scales, style: Style, *, notes: Sequence[str] = ()
) -> Iterator[Tile]:
    """W where there is one, and the map with `notes`, of answer number i."""
    answer = subject.answers[i]
    rgb = as_floats(subject.arrays["rgb"])
    limit = scales.limits[answer.method]
    w = explanation(subject, i, scales)
    if w is not None:
        yield Tile(explanation_overlay(rgb, w) if style.overlay else w, "W(x)", "what the network looks for")
    map = subject.arrays[f"map.{i}"]
    picture = contribution_overlay(rgb, map, limit=limit) if style.overlay else contributions(subject, i, scales)
    exact = answer.method == EXACT
    bar = ColorBar(limit, LOGITS if exact else NO_LOGITS, bool((np.abs(map) > limit).any()))
    title, subtitle = ("contributions W(x)·x", "red for the class, blue against it") if exact else (answer.method, "")
    yield Tile(picture, title, subtitle, bar if style.colorbar else None, notes)


def remarks_below(answers: Iterable[Answer]) -> list[str]:
    """What each method said of its maps, for a place below all of them."""
    by_method: dict[str, list[Remark]] = {}
    for answer in answers:
        by_method.setdefault(answer.method, []).extend(answer.remarks)
    return [f"{method}: {line}" for method, remarks in by_method.items() for line in remark_lines(remarks)]


def _receipt_lines(answers: Sequence[Answer]) -> list[str]:
    """Below pictures of one question."""
    for answer in answers:
        if answer.receipt is not None:
            terms = [(name, value) for name, value in answer.receipt.terms.items() if value]
            named = [f"{name} {number(value)}" for name, value in terms[:_TERMS]]
            rest = sum(value for _, value in terms[_TERMS:])
            lines = [f"receipt: {answer.receipt.equation} · {answer.receipt.verdict}", answer.receipt.cancellation]
            if named:
                more = [f"others {number(rest)}"] if len(terms) > _TERMS else []
                lines.append(f"bias: {', '.join([*named, *more])}")
            return [*lines, answer.receipt.bar, *answer.receipt.warnings]
    return []
