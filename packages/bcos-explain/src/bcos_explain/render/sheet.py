"""A page of pictures and text, before it is drawn in pixels or as SVG."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError

Background = Literal["white", "black", "checker", "none"]
Anchor = Literal["left", "middle", "right"]

CHECKER = (1.0, 0.85)
"""Greys of the squares under transparent pictures."""


@dataclass(frozen=True)
class Look:
    """Colours of a page, as Pillow and SVG write them."""

    page: str | None
    """Colour of the page; None if it is transparent."""
    ink: str
    faint: str
    """Colour of notes."""
    line: str


LOOKS: dict[Background, Look] = {
    "white": Look("#ffffff", "#111111", "#5a5a5a", "#c8c8c8"),
    "black": Look("#000000", "#f0f0f0", "#aaaaaa", "#505050"),
    "checker": Look("#ffffff", "#111111", "#5a5a5a", "#c8c8c8"),
    "none": Look(None, "#767676", "#767676", "#969696"),  # can be read on white and on black
}


@dataclass(frozen=True)
class Panel:
    """A picture in its place, in pixels."""

    x: int
    y: int
    width: int
    height: int
    picture: NDArray[np.uint8]
    """(h, w, 3 or 4), enlarged or shrunk to the place."""
    framed: bool = False
    """Whether a thin line is drawn around it."""


@dataclass(frozen=True)
class Label:
    """One line of text; y is that of its baseline."""

    x: int
    y: int
    text: str
    size: int
    anchor: Anchor = "left"
    bold: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Line:
    """A vertical line, one pixel wide."""

    x: int
    y: int
    height: int


@dataclass
class Sheet:
    """A page, filled by the functions that lay it out.

    Raises:
        BcosError: an unknown background.
    """

    width: int
    height: int
    background: Background = "white"
    panels: list[Panel] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.look = look_of(self.background)


def look_of(background: Background) -> Look:
    """Return the colours of a page.

    Raises:
        BcosError: an unknown background.
    """
    if background not in LOOKS:
        raise BcosError(f"background must be one of {', '.join(get_args(Background))}, got {background!r}")
    return LOOKS[background]


def checkerboard(height: int, width: int, square: int) -> NDArray[np.float64]:
    """Return squares of two greys (H, W, 3), to lay transparent pictures on."""
    rows, columns = np.ogrid[:height, :width]
    grey = np.where((rows // square + columns // square) % 2, CHECKER[1], CHECKER[0])
    return np.repeat(grey[..., None], 3, axis=2)
