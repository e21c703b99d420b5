"""Sheets as files."""

from pathlib import Path

from bcos_core import BcosError
from bcos_core.files import write_atomically
from bcos_explain.render.picture import FORMATS
from bcos_explain.render.raster import draw, encoded
from bcos_explain.render.sheet import Sheet
from bcos_explain.render.svg import svg_of


def sheet_bytes(sheet: Sheet, format: str) -> bytes:
    """Encode a sheet as PNG, WebP (without loss) or SVG (whose text stays text).

    Raises:
        BcosError: another format.
    """
    if format not in FORMATS:
        raise BcosError(f"sheets can be {', '.join(FORMATS)}, got {format!r}")
    return svg_of(sheet).encode() if format == "svg" else encoded(draw(sheet), format)


def save_sheet(sheet: Sheet, path: str | Path) -> None:
    """Write a sheet in the format of the file's name; the file appears complete or not at all.

    Raises:
        BcosError: a name that ends in none of the formats.
    """
    write_atomically(path, sheet_bytes(sheet, Path(path).suffix.removeprefix(".").lower()))
