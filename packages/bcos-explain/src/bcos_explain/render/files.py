"""Pictures and sheets as files: PNG, WebP and SVG."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bcos_core import BcosError
from bcos_core.files import write_atomically
from bcos_explain.render.arrays import to_bytes
from bcos_explain.render.sheet import Panel, Sheet
from bcos_explain.render.text import FAMILIES, drawable, font, printable

FORMATS = ("png", "svg", "webp")
_EFFORT = 50
"""Effort of the WebP encoder, up to 100; more takes twice the time and saves less than 1 %."""
_NAMESPACE = "http://www.w3.org/2000/svg"
_ANCHORS = {"left": ("ls", "start"), "middle": ("ms", "middle"), "right": ("rs", "end")}
"""What Pillow and SVG call the place of a text's anchor."""


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


def data_uri(picture: NDArray[Any], format: str = "webp", scale: int = 1) -> str:
    """Return the ``data:`` address of a picture, without loss.

    Measured on photographs and their explanations, WebP takes a third (maps) to three quarters (photographs) of
    the bytes of PNG. It may change colours of pixels that are fully transparent.

    Args:
        picture: as for :func:`enlarged`; so is `scale`.
        format: ``"webp"`` or ``"png"``.

    Raises:
        BcosError: another shape, or values outside [0, 1].
    """
    data = encoded(enlarged(picture, scale), format)
    return f"data:image/{format};base64,{base64.b64encode(data).decode('ascii')}"


def encoded(image: Image.Image, format: str) -> bytes:
    """Encode a picture as ``"png"``, or as ``"webp"`` without loss."""
    buffer = io.BytesIO()
    if format == "webp":
        image.save(buffer, format="webp", lossless=True, quality=_EFFORT, method=4)
    else:
        image.save(buffer, format="png")  # optimize=True takes four to nine times as long, for 1 to 6 % fewer bytes
    return buffer.getvalue()


def enlarged(picture: NDArray[Any], scale: int) -> Image.Image:
    """Enlarge a picture (H, W), (H, W, 3) or (H, W, 4), 8-bit or in [0, 1]; each pixel gets `scale` × `scale`.

    Raises:
        BcosError: another shape, or values outside [0, 1].
    """
    return Image.fromarray(to_bytes(picture).repeat(scale, axis=0).repeat(scale, axis=1))


def resized(picture: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    """Enlarge a picture without blur (each pixel a square), or shrink it by averaging."""
    h, w = picture.shape[:2]
    if width % w == 0 and height % h == 0:
        return Image.fromarray(picture.repeat(height // h, axis=0).repeat(width // w, axis=1))
    return Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)


def draw(sheet: Sheet) -> Image.Image:
    """Draw the sheet in pixels: RGB, or RGBA where its page is transparent."""
    look = sheet.look
    canvas = Image.new("RGBA", (sheet.width, sheet.height), look.page or (0, 0, 0, 0))
    for panel in sheet.panels:
        canvas.alpha_composite(resized(panel.picture, panel.width, panel.height).convert("RGBA"), (panel.x, panel.y))
    pen = ImageDraw.Draw(canvas)
    for line in sheet.lines:
        pen.line((line.x, line.y, line.x, line.y + line.height - 1), fill=look.ink)
    for panel in sheet.panels:
        if panel.framed:
            corners = (panel.x - 1, panel.y - 1, panel.x + panel.width, panel.y + panel.height)
            pen.rectangle(corners, outline=look.line)
    for label in sheet.labels:
        text, path = drawable(label.text, bold=label.bold)
        fill = look.faint if label.faint else look.ink
        pen.text((label.x, label.y), text, fill=fill, font=font(path, label.size), anchor=_ANCHORS[label.anchor][0])
    return canvas if look.page is None else canvas.convert("RGB")


def svg_of(sheet: Sheet) -> str:
    """Return the sheet as one SVG document: pictures as PNG inside, text as text, no external references."""
    look = sheet.look
    parts = [
        f'<svg xmlns="{_NAMESPACE}" width="{sheet.width}" height="{sheet.height}" '
        f'viewBox="0 0 {sheet.width} {sheet.height}" font-family="{FAMILIES}">'
    ]
    if look.page is not None:
        parts.append(f'<rect width="100%" height="100%" fill="{look.page}"/>')
    for panel in sheet.panels:
        place = f'x="{panel.x}" y="{panel.y}" width="{panel.width}" height="{panel.height}"'
        style = 'preserveAspectRatio="none" style="image-rendering:pixelated"'
        parts.append(f'<image {place} {style} href="{data_uri(panel.picture, format="png")}"/>')
        if panel.framed:
            place = f'x="{panel.x - 0.5}" y="{panel.y - 0.5}" width="{panel.width + 1}" height="{panel.height + 1}"'
            parts.append(f'<rect {place} fill="none" stroke="{look.line}"/>')
    for line in sheet.lines:
        parts.append(f'<rect x="{line.x}" y="{line.y}" width="1" height="{line.height}" fill="{look.ink}"/>')
    for label in sheet.labels:
        weight = ' font-weight="bold"' if label.bold else ""
        style = f'font-size="{label.size}" text-anchor="{_ANCHORS[label.anchor][1]}"{weight}'
        colour = look.faint if label.faint else look.ink
        text = escape(printable(label.text))
        parts.append(f'<text x="{label.x}" y="{label.y}" {style} fill="{colour}" xml:space="preserve">{text}</text>')
    return "\n".join([*parts, "</svg>\n"])
