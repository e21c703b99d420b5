"""Writing the HTML file of a report."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from bcos_core.files import write_atomically
from bcos_explain.report.charts import learning_curves
from bcos_explain.report.data import ReportData
from bcos_explain.report.sections import confusion_section, gallery_section, metric_sections, neuron_sections
from bcos_explain.report.tables import shown_table

_TEMPLATES = "report/templates"


def write_report(path: str | Path, data: ReportData) -> None:
    """Write the report to one HTML file that loads nothing.

    The file appears complete or not at all. Its one script, for filters, sorting and enlarged pictures, is in
    it; a browser that runs no scripts shows everything else.

    Raises:
        BcosError: pictures or maps with values that cannot be shown.
    """
    write_atomically(path, render_report(data).encode())


def render_report(data: ReportData) -> str:
    """Return the report's HTML; every text in it is escaped."""
    script = _part("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            style=_part("report.css"),
            script=script,
            script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            curves=learning_curves(data.curves),
            confusion=None if data.confusion is None else confusion_section(data.confusion, data.gallery),
            metrics=metric_sections(data),
            tables=[shown_table(table) for table in data.tables],
            neurons=neuron_sections(data.neurons),
            gallery=gallery_section(data.gallery) if data.gallery else None,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bcos_explain", _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = lambda value: f"{value:z.2f}".replace("-", "−")  # as wide as a plus
    environment.filters["breakable"] = _breakable
    return environment


def _part(name: str) -> str:
    """Return the text of a file beside the templates, to stand inside the page."""
    return "\n" + (files("bcos_explain") / _TEMPLATES / name).read_text(encoding="utf-8")


def _breakable(text: str) -> Markup:
    """Return text that may break after an underscore, as the names of explainers are long."""
    return Markup("_<wbr>").join(escape(part) for part in text.split("_"))
