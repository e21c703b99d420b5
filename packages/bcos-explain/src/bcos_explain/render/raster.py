"""Sheets and pictures in pixels: PNG and WebP."""

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcos_explain.render.sheet import Label, Panel, Sheet
from bcos_explain.render.text import drawable, font

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageDraw import ImageDraw

_ANCHORS = {"left": "ls", "middle": "ms", "right": "rs"}


def draw(sheet: Sheet) -> "Image.Image":
    """The sheet in pixels: RGB, or RGBA where its page is transparent."""
    from PIL import Image, ImageDraw

    look = sheet.look
    canvas = Image.new("RGBA", (sheet.width, sheet.height), (0, 0, 0, 0) if look.page is None else (*look.page, 255))
    for panel in sheet.panels:
        canvas.alpha_composite(resized(panel.picture, panel.width, panel.height).convert("RGBA"), (panel.x, panel.y))
    pen = ImageDraw.Draw(canvas)
    for line in sheet.lines:
        pen.rectangle((line.x, line.y, line.x + line.width - 1, line.y + line.height - 1), fill=(*look.ink, 255))
    for panel in sheet.panels:
        if panel.framed:
            pen.rectangle(_frame(panel), outline=(*look.line, 255))
    for label in sheet.labels:
        _write(pen, label, look.faint if label.faint else look.ink)
    return canvas if look.page is None else canvas.convert("RGB")


def resized(picture: NDArray[np.uint8], width: int, height: int) -> "Image.Image":
    """Enlarged without blur (each pixel a square), shrunk by averaging."""
    from PIL import Image

    h, w = picture.shape[:2]
    if width % w == 0 and height % h == 0:
        return Image.fromarray(picture.repeat(height // h, axis=0).repeat(width // w, axis=1))
    return Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)


def encoded(image: "Image.Image", format: str) -> bytes:
    """PNG, or WebP without loss."""
    buffer = io.BytesIO()
    if format == "webp":
        image.save(buffer, format="webp", lossless=True, method=4)
    else:
        image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _frame(panel: Panel) -> tuple[int, int, int, int]:
    return panel.x - 1, panel.y - 1, panel.x + panel.width, panel.y + panel.height


def _write(pen: "ImageDraw", label: Label, colour: tuple[int, int, int]) -> None:
    text, path = drawable(label.text, bold=label.bold)
    pen.text((label.x, label.y), text, fill=(*colour, 255), font=font(path, label.size), anchor=_ANCHORS[label.anchor])
