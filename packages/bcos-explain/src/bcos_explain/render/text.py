"""Text in pictures: fonts, widths, and letters that a font lacks."""

from bisect import bisect_right
from functools import cache
from pathlib import Path

from PIL import ImageFont

FAMILIES = "DejaVu Sans, Verdana, sans-serif"
"""Fonts for SVG: that of the raster pictures, and one of the same widths."""
MISSING = "□"
_FALLBACKS = ("Noto Sans CJK", "Noto Sans", "WenQuanYi", "Arial Unicode", "Hiragino", "Microsoft YaHei", "Malgun")
"""Starts of the names of fonts that may be installed and have letters that DejaVu Sans lacks."""


def printable(text: str) -> str:
    """Return `text` on one line: white space is one space, control characters are gone."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def drawable(text: str, *, bold: bool = False) -> tuple[str, Path]:
    """Return `text` and a font that has its letters; letters that no font has become boxes."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if _letters(own).issuperset(map(ord, text)):
        return text, own
    for path in _fallback_files():
        if _letters(path).issuperset(map(ord, text)):
            return text, path
    return "".join(c if ord(c) in _letters(own) else MISSING for c in text), own


def width_of(text: str, size: int, *, bold: bool = False) -> float:
    """Return the width in pixels of one line."""
    shown, path = drawable(text, bold=bold)
    return font(path, size).getlength(shown)


def shortened(text: str, room: float, size: int, *, bold: bool = False) -> str:
    """Return `text` on one line, its end replaced by an ellipsis where it is wider than `room` pixels."""
    line = printable(text)
    if width_of(line, size, bold=bold) <= room:
        return line

    def width(count: int) -> float:
        return width_of(line[:count].rstrip() + "…", size, bold=bold)

    fits = bisect_right(range(1, len(line)), room, key=width)
    return line[:fits].rstrip() + "…"


def wrapped(text: str, room: float, size: int) -> list[str]:
    """Return `text` on as many lines of at most `room` pixels as it needs; a word that is wider is shortened."""
    lines: list[str] = []
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(shortened(word, room, size))
    return lines


@cache
def font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """Return the font of `size` pixels, laid out the same on every machine."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _letters(path: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(path)).get_charmap())


@cache
def _fallback_files() -> list[Path]:
    from matplotlib.font_manager import fontManager

    found = {e.name: Path(e.fname) for e in fontManager.ttflist if e.style == "normal" and Path(e.fname).is_file()}
    return [path for start in _FALLBACKS for name, path in sorted(found.items()) if name.startswith(start)]
