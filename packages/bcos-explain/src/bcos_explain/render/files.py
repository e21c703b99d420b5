"""Pictures and sheets as files."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_core.files import write_atomically
from bcos_explain.render.arrays import to_bytes
from bcos_explain.render.encode import encoded, enlarged, resized
from bcos_explain.render.raster import draw
from bcos_explain.render.sheet import Panel, Sheet
from bcos_explain.render.svg import svg_of

FORMATS = ("png", "svg", "webp")


def save_png(array: NDArray[Any], path: str | Path, scale: int = 1) -> None:
    """Write a picture as PNG; the file appears complete or not at all.

    Args:
        array: (H, W), (H, W, 3) or (H, W, 4), values in [0, 1], or 8-bit integers.
        path: where to write; missing folders are made.
        scale: each pixel becomes a square of this many pixels.

    Raises:
        BcosError: a shape, values or a scale that cannot be drawn.
    """
    if not isinstance(scale, int) or scale < 1:
        raise BcosError(f"scale must be a whole number of at least 1, got {scale!r}")
    write_atomically(path, encoded(enlarged(array, scale), "png"))


def picture_bytes(array: NDArray[Any], format: str, *, side: int | None = None) -> bytes:
    """Encode a picture without text, transparency kept, as PNG, WebP (without loss) or SVG (a PNG inside).

    Args:
        array: (H, W, 3) or (H, W, 4), floats in [0, 1] or 8-bit.
        format: ``"png"``, ``"webp"`` or ``"svg"``.
        side: width in pixels, enlarged as squares or shrunk by averaging; None for that of the array.

    Raises:
        BcosError: another shape, values or format.
    """
    _check_format("pictures", format)
    values = to_bytes(array)
    height, width = values.shape[:2]
    wide = width if side is None else side
    high = max(1, round(height * wide / width))
    if format == "svg":
        return svg_of(Sheet(wide, high, "none", [Panel(0, 0, wide, high, values)])).encode()
    return encoded(resized(values, wide, high), format)


def sheet_bytes(sheet: Sheet, format: str) -> bytes:
    """Encode a sheet as PNG, WebP (without loss) or SVG (whose text stays text).

    Raises:
        BcosError: another format.
    """
    _check_format("sheets", format)
    return svg_of(sheet).encode() if format == "svg" else encoded(draw(sheet), format)


def save_sheet(sheet: Sheet, path: str | Path) -> None:
    """Write a sheet in the format of the file's name; the file appears complete or not at all.

    Raises:
        BcosError: a name with another suffix.
    """
    write_atomically(path, sheet_bytes(sheet, Path(path).suffix.removeprefix(".").lower()))


def _check_format(what: str, format: str) -> None:
    if format not in FORMATS:
        raise BcosError(f"{what} can be {', '.join(FORMATS)}, got {format!r}")
