"""Sheets in pixels."""

from typing import TYPE_CHECKING

from bcos_explain.render.encode import resized
from bcos_explain.render.sheet import Sheet
from bcos_explain.render.text import drawable, font

if TYPE_CHECKING:
    from PIL import Image

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
            corners = (panel.x - 1, panel.y - 1, panel.x + panel.width, panel.y + panel.height)
            pen.rectangle(corners, outline=(*look.line, 255))
    for label in sheet.labels:
        text, path = drawable(label.text, bold=label.bold)
        fill = (*(look.faint if label.faint else look.ink), 255)
        pen.text((label.x, label.y), text, fill=fill, font=font(path, label.size), anchor=_ANCHORS[label.anchor])
    return canvas if look.page is None else canvas.convert("RGB")
