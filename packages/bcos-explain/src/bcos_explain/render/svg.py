"""Sheets as SVG: pictures as PNG inside, text as text, no external references."""

from html import escape

from bcos_explain.render.encode import data_uri
from bcos_explain.render.sheet import Label, Look, Panel, Sheet
from bcos_explain.render.text import FAMILIES, printable

_NAMESPACE = "http://www.w3.org/2000/svg"
_ANCHORS = {"left": "start", "middle": "middle", "right": "end"}


def svg_of(sheet: Sheet) -> str:
    """Return the sheet as one SVG document."""
    look = sheet.look
    parts = [
        f'<svg xmlns="{_NAMESPACE}" width="{sheet.width}" height="{sheet.height}" '
        f'viewBox="0 0 {sheet.width} {sheet.height}" font-family="{FAMILIES}">'
    ]
    if look.page is not None:
        parts.append(f'<rect width="100%" height="100%" fill="{_colour(look.page)}"/>')
    parts += [_panel(panel, look) for panel in sheet.panels]
    parts += [
        f'<rect x="{line.x}" y="{line.y}" width="{line.width}" height="{line.height}" fill="{_colour(look.ink)}"/>'
        for line in sheet.lines
    ]
    parts += [_label(label, look) for label in sheet.labels]
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, look: Look) -> str:
    image = (
        f'<image x="{panel.x}" y="{panel.y}" width="{panel.width}" height="{panel.height}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{data_uri(panel.picture, format="png")}"/>'
    )
    if not panel.framed:
        return image
    return image + (
        f'<rect x="{panel.x - 0.5}" y="{panel.y - 0.5}" width="{panel.width + 1}" height="{panel.height + 1}" '
        f'fill="none" stroke="{_colour(look.line)}"/>'
    )


def _label(label: Label, look: Look) -> str:
    weight = ' font-weight="bold"' if label.bold else ""
    colour = look.faint if label.faint else look.ink
    return (
        f'<text x="{label.x}" y="{label.y}" font-size="{label.size}" text-anchor="{_ANCHORS[label.anchor]}"{weight} '
        f'fill="{_colour(colour)}" xml:space="preserve">{escape(printable(label.text))}</text>'
    )


def _colour(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
