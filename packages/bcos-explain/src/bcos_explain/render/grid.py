"""Layout of pictures in rows, with titles, scales and notes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from bcos_core import BcosError
from bcos_explain.render.arrays import to_bytes, to_floats
from bcos_explain.render.contributions import ColorBar, bar_picture
from bcos_explain.render.picture import on_background
from bcos_explain.render.sheet import Anchor, Background, Label, Line, Panel, Sheet, checkerboard, look_of
from bcos_explain.render.text import shortened, width_of, wrapped

GAP = 12
"""Pixels between tiles, and around all of them."""
_BAR = 10
"""Height of a scale."""
_TICK = 3
_SMALLEST_TEXT = 11


@dataclass(frozen=True)
class Tile:
    """A picture with its title, scale and notes."""

    picture: NDArray[Any]
    """(h, w, 3 or 4), floats in [0, 1] or 8-bit; transparent parts show the page."""
    title: str = ""
    subtitle: str = ""
    bar: ColorBar | None = None
    notes: Sequence[str] = ()


def grid(
    rows: Sequence[Sequence[Tile | None]],
    *,
    side: int,
    heading: str = "",
    footer: Sequence[str] = (),
    background: Background = "white",
) -> Sheet:
    """Lay tiles out in rows: each `side` pixels wide and high, its title above, scale and notes below.

    Lines of text are shortened to the room that they have; those of the footer are wrapped.

    Args:
        rows: rows of equal or different lengths; None leaves a place empty.
        side: at least 16.
        heading: above everything.
        footer: paragraphs below everything.
        background: colour of the page, and behind transparent parts of pictures.

    Raises:
        BcosError: no tiles, a side that is too small, an unknown background.
    """
    if not any(tile for row in rows for tile in row):
        raise BcosError("a sheet needs at least one picture")
    if side < 16:
        raise BcosError(f"pictures must be at least 16 pixels wide on a sheet, got {side}")
    text = max(_SMALLEST_TEXT, round(side * 0.053))
    columns = max(len(row) for row in rows)
    width = GAP + columns * (side + GAP)
    sheet = Sheet(width, 0, background)
    y = GAP
    if heading:
        y = _write(sheet, GAP, y, heading, text + 2, width - 2 * GAP, bold=True) + GAP // 2
    for row in rows:
        y = _lay_row(sheet, row, y, side, text)
    for line in (part for paragraph in footer for part in wrapped(paragraph, width - 2 * GAP, text)):
        y = _write(sheet, GAP, y, line, text, width - 2 * GAP, faint=True)
    sheet.height = y + (GAP if footer else 0)
    return sheet


def laid_on(picture: NDArray[Any], background: Background) -> NDArray[np.uint8]:
    """Lay a picture (h, w, 3 or 4) on a background, in 8 bits; with ``"none"`` it stays as transparent as it is.

    Raises:
        BcosError: another shape or an unknown background.
    """
    page = look_of(background).page
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise BcosError(f"a picture on a sheet must be (h, w, 3) or (h, w, 4), got shape {picture.shape}")
    if picture.shape[2] == 4 and page is not None:
        height, width = picture.shape[:2]
        colour = np.divide(ImageColor.getrgb(page), 255)
        under = checkerboard(height, width, max(1, height // 16)) if background == "checker" else colour
        picture = on_background(to_floats(picture), under)
    return to_bytes(picture)


def _lay_row(sheet: Sheet, row: Sequence[Tile | None], top: int, side: int, text: int) -> int:
    """Add a row of tiles; return where the next one starts."""
    tiles = [(GAP + i * (side + GAP), tile) for i, tile in enumerate(row) if tile is not None]
    y = top
    if any(tile.title for _, tile in tiles):
        y = max(_write(sheet, x, y, tile.title, text, side, bold=True) for x, tile in tiles)
    if any(tile.subtitle for _, tile in tiles):
        y = max(_write(sheet, x, y, tile.subtitle, text - 1, side, faint=True) for x, tile in tiles)
    y += 3
    for x, tile in tiles:
        sheet.panels.append(Panel(x, y, side, side, laid_on(tile.picture, sheet.background), framed=True))
    y += side
    if any(tile.bar for _, tile in tiles):
        y = max(_lay_bar(sheet, x, y + 7, side, tile.bar, text - 1) for x, tile in tiles if tile.bar)
    bottom = y
    for x, tile in tiles:
        below = y + 2
        for note in tile.notes:
            below = _write(sheet, x, below, note, text - 1, side)
        bottom = max(bottom, below)
    return bottom + GAP


def _lay_bar(sheet: Sheet, x: int, y: int, width: int, bar: ColorBar, text: int) -> int:
    sheet.panels.append(Panel(x, y, width, _BAR, bar_picture(width, _BAR, bar)))
    y += _BAR
    for place, label in _labels_that_fit(bar, width, text):
        half = width_of(label, text) / 2
        anchor: Anchor = "left" if place < half else "right" if place + half > width else "middle"
        edge = {"left": 0, "middle": place, "right": width}[anchor]
        sheet.lines.append(Line(x + place, y, _TICK))
        sheet.labels.append(Label(x + edge, y + _TICK + text, label, text, anchor))
    return _write(sheet, x + width // 2, y + _TICK + text + 1, bar.label, text, width, faint=True, anchor="middle")


def _labels_that_fit(bar: ColorBar, width: int, text: int) -> list[tuple[int, str]]:
    """Return places and labels of round values that fit beside each other: many, few, or the outermost two."""
    for count in (2, 1):
        labels = [(round(place * (width - 1)), label) for place, label in bar.marks(count)]
        spans = []
        for place, label in labels:
            size = width_of(label, text)
            left = min(max(place - size / 2, 0), width - size)
            spans.append((left, left + size))
        if all(end + text / 2 <= start for (_, end), (start, _) in itertools.pairwise(spans)):
            return labels
    return [labels[0], labels[-1]]


def _write(
    sheet: Sheet,
    x: int,
    y: int,
    line: str,
    size: int,
    room: int,
    *,
    bold: bool = False,
    faint: bool = False,
    anchor: Anchor = "left",
) -> int:
    """Add a line of text below y; return where the next one starts."""
    if line:
        shown = shortened(line, room, size, bold=bold)
        sheet.labels.append(Label(x, y + size, shown, size, anchor, bold=bold, faint=faint))
    return y + round(size * 1.3)
