"""Sheets in pixels."""

from typing import TYPE_CHECKING

from bcos_explain.render.encode import resized
from bcos_explain.render.sheet import Label, Panel, Sheet
from bcos_explain.render.text import drawable, font

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageDraw import ImageDraw

_ANCHORS = {"left": "ls", "middle": "ms", "right": "rs"}


def draw(sheet: Sheet) -> "Image.Image":
    """Draw the sheet in pixels: RGB, or RGBA where its page is transparent."""
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


def _frame(panel: Panel) -> tuple[int, int, int, int]:
    return panel.x - 1, panel.y - 1, panel.x + panel.width, panel.y + panel.height


def _write(pen: "ImageDraw", label: Label, colour: tuple[int, int, int]) -> None:
    text, path = drawable(label.text, bold=label.bold)
    pen.text((label.x, label.y), text, fill=(*colour, 255), font=font(path, label.size), anchor=_ANCHORS[label.anchor])
