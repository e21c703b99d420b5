"""Sheets of the pictures of one explained image, with titles, scales and receipts."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_cli.explain.targets import class_text, target_text
from bcos_core.receipt import Receipt, number
from bcos_explain import ClassExplanation, ClassTarget, ExplainedImage
from bcos_explain.explainers import Remark, remark_lines
from bcos_explain.render import (
    Background,
    ColorBar,
    Sheet,
    Tile,
    contribution_overlay,
    contribution_rgb,
    explanation_overlay,
    grid,
    on_ground,
    percentile_of_many,
)

SIDE = 224
"""Pictures are enlarged by a whole factor to about this many pixels."""
_TERMS = 4
"""Number of terms of a bias that are named; the others are summed."""

Picture = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """What colours and opacity stand for."""

    limits: dict[str, float]
    """Contribution at the ends of the colours, by method."""
    alphas: dict[str, float]
    """Norm of W at which its picture is opaque, by method; none where nothing contributes."""
    lows: dict[str, float]
    """Smallest value, at which colours start, by method without a sign: RISE's has a large constant part."""

    @classmethod
    def of(cls, images: Iterable[ExplainedImage]) -> "Scale":
        """Return the scale that suits all images, which are iterated more than once."""
        methods = list(dict.fromkeys(e.method for image in images for e in image.explanations))
        limits = {method: _percentile(images, method, lambda e: e.map) or 1.0 for method in methods}
        alphas = {
            method: _percentile(images, method, lambda e: None if e.picture is None else e.picture.strength)
            for method in methods
        }
        lows: dict[str, float] = {}
        for explanation in (e for image in images for e in image.explanations if not e.signed):
            lows[explanation.method] = min(lows.get(explanation.method, math.inf), float(explanation.map.min()))
        for method, low in lows.items():
            limits[method] = limits[method] if limits[method] > low else low + 1
        return cls(limits, {method: alpha for method, alpha in alphas.items() if alpha}, lows)

    def low(self, explanation: ClassExplanation) -> float | None:
        """Return the value at which the colours of a map without a sign start; None for a signed one."""
        return None if explanation.signed else self.lows[explanation.method]

    def to_dict(self, explanation: ClassExplanation) -> dict[str, float | None]:
        """Return the scale of the pictures of an explanation, for JSON."""
        return {"limit": self.limits[explanation.method], "low": self.low(explanation)} | {
            "alpha": self.alphas.get(explanation.method)
        }


@dataclass(frozen=True, kw_only=True)
class Style:
    """Style of the pictures of an image."""

    classes: Sequence[str]
    side: int
    background: Background
    colorbar: bool = True
    overlay: bool = False
    """Paint over the input in grey."""
    ground: bool = True
    """Lay W without colours on mid-grey instead of the background."""


def side_of(pixels: int, given: int | None) -> int:
    """Return the width of a picture: the given one, or a whole multiple of its pixels near :data:`SIDE`."""
    return given or max(1, round(SIDE / pixels)) * pixels


def weight_picture(
    image: ExplainedImage,
    explanation: ClassExplanation,
    scale: Scale,
    *,
    overlay: bool = False,
    ground: bool = True,
) -> Picture | None:
    """Return W in colours, RGBA (H, W, 4), or over the image in grey, (H, W, 3); None for methods without W.

    W without colours lies on mid-grey, (H, W, 3), unless `ground` is False.
    """
    if explanation.picture is None:
        return None
    rgba = explanation.picture.rgba(scale.alphas.get(explanation.method))
    if overlay:
        return explanation_overlay(image.image / 255, rgba)
    return on_ground(rgba) if ground else rgba


def map_picture(
    image: ExplainedImage, explanation: ClassExplanation, scale: Scale, *, overlay: bool = False
) -> Picture:
    """Return a map in the colours of its scale, RGB (H, W, 3), alone or over the image in grey."""
    limit, low = scale.limits[explanation.method], scale.low(explanation)
    if overlay:
        return contribution_overlay(image.image / 255, explanation.map, limit=limit, low=low)
    return contribution_rgb(explanation.map, limit=limit, low=low)


def map_title(explanation: ClassExplanation) -> tuple[str, str]:
    """Return title and subtitle of a map."""
    if explanation.exact and explanation.picture is not None:
        return "contributions W(x)·x", "red for the class, blue against it"
    return explanation.method, "red for the class, blue against it" if explanation.exact else ""


def color_bar(explanation: ClassExplanation, scale: Scale) -> ColorBar:
    """Return the scale of a map, in units of the logit if the method is exact."""
    limit = scale.limits[explanation.method]
    label = "logit per pixel" if explanation.exact else "not exact, per pixel"
    return ColorBar(limit, label, bool((np.abs(explanation.map) > limit).any()), scale.low(explanation))


def overview(
    image: ExplainedImage,
    scale: Scale,
    style: Style,
    *,
    heading: str,
    original: str = "",
    notes: Sequence[str] = (),
) -> Sheet:
    """Return a sheet of input, W and contributions with titles, scales and receipts.

    One target makes a row, several make a column each. The heading names the image, `original` stands below the title
    of the input, `notes` on what was done to it below everything.
    """
    explanations = image.explanations
    targets = list(dict.fromkeys(e.target for e in explanations))
    predicted = f"{class_text(image.predicted, style.classes)} {percent(image.confidence)}"
    rows: list[list[Tile | None]]
    first = Tile(image.image, "input", original)
    if len(targets) > 1:
        columns = [list(_column(image, target, scale, style)) for target in targets]
        rows = [[None, *tiles] for tiles in zip(*columns, strict=True)]
        rows[0][0] = first
        note = sum_note(image.probabilities.tolist())
        footer = [*([f"probabilities: {note}"] if note else []), *remarks_below(explanations)]
    else:
        rows = [[first, *(tile for e in explanations for tile in explanation_tiles(image, e, scale, style))]]
        footer = [*_receipt_lines(explanations), *remarks_below(explanations)]
        if targets[0] != ClassTarget(image.predicted):
            heading = f"{heading} · {target_text(targets[0], style.classes)}: {likelihood(explanations[0])}"
        else:
            predicted = f"{predicted} · logit {number(explanations[0].logit)}"
    heading = f"{heading} · predicted: {predicted}"
    footer += [f"image: {'; '.join(notes)}"] if notes else []
    return grid(rows, side=style.side, heading=heading, footer=footer, background=style.background)


def percent(share: float) -> str:
    """Return a probability as text, never rounded to certainty."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


def sum_note(probabilities: Iterable[float]) -> str | None:
    """Return a line about probabilities of all classes that do not add up to 1, as of a sigmoid for each class."""
    total = sum(probabilities)
    return None if abs(total - 1) < 0.005 else f"each class is judged on its own: all together have {percent(total)}"


def _column(image: ExplainedImage, target: ClassTarget, scale: Scale, style: Style) -> Iterator[Tile]:
    """Yield the tiles of one target from top to bottom, its name above the first."""
    is_first = True
    for explanation in image.explanations:
        if explanation.target != target:
            continue
        notes = () if explanation.receipt is None else _short_receipt(explanation.receipt)
        for tile in explanation_tiles(image, explanation, scale, style, notes=notes):
            named = replace(tile, title=target_text(target, style.classes), subtitle=likelihood(explanation))
            yield named if is_first else tile
            is_first = False


def _short_receipt(receipt: Receipt) -> tuple[str, ...]:
    return (receipt.equation, receipt.verdict, receipt.shares, *receipt.warnings)


def likelihood(explanation: ClassExplanation) -> str:
    """Return probability and logit of the target, or the difference of two logits."""
    if explanation.target.against is not None:
        return f"difference of logits {number(explanation.logit)}"
    return f"{percent(explanation.probability)} · logit {number(explanation.logit)}"


def explanation_tiles(
    image: ExplainedImage, explanation: ClassExplanation, scale: Scale, style: Style, *, notes: Sequence[str] = ()
) -> Iterator[Tile]:
    """Yield W where there is one, and the map with `notes`."""
    weight = weight_picture(image, explanation, scale, overlay=style.overlay, ground=style.ground)
    if weight is not None:
        yield Tile(weight, "W(x)", "what the network looks for")
    bar = color_bar(explanation, scale) if style.colorbar else None
    picture = map_picture(image, explanation, scale, overlay=style.overlay)
    yield Tile(picture, *map_title(explanation), bar, notes)


def remarks_below(explanations: Iterable[ClassExplanation]) -> list[str]:
    """Return the remarks of each method on its maps, to stand below all of them."""
    by_method: dict[str, list[Remark]] = {}
    for explanation in explanations:
        by_method.setdefault(explanation.method, []).extend(explanation.remarks)
    return [f"{method}: {line}" for method, remarks in by_method.items() for line in remark_lines(remarks)]


def _receipt_lines(explanations: Sequence[ClassExplanation]) -> list[str]:
    """Return the lines of the first receipt, to stand below pictures of one target."""
    receipt = next((e.receipt for e in explanations if e.receipt is not None), None)
    if receipt is None:
        return []
    terms = [(name, value) for name, value in receipt.terms.items() if value]
    named = [f"{name} {number(value)}" for name, value in terms[:_TERMS]]
    if len(terms) > _TERMS:
        named.append(f"others {number(sum(value for _, value in terms[_TERMS:]))}")
    bias = [f"bias: {', '.join(named)}"] if named else []
    equation = f"receipt: {receipt.equation} · {receipt.verdict}"
    return [equation, receipt.cancelled, *bias, receipt.bar, *receipt.warnings]


def _percentile(
    images: Iterable[ExplainedImage], method: str, array_of: Callable[[ClassExplanation], NDArray[Any] | None]
) -> float:
    """Return the percentile of the absolute values of an array over all explanations by a method; 0 without any."""

    def arrays() -> Iterator[NDArray[Any]]:
        for image in images:
            for explanation in image.explanations:
                if explanation.method == method and (array := array_of(explanation)) is not None:
                    yield np.abs(array)

    count = sum(array.size for array in arrays())
    return percentile_of_many(arrays(), count) if count else 0.0
