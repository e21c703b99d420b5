"""A report of a trained network as one self-contained HTML file."""

from bcos_explain.report.data import Confusion, GalleryItem, ReportData
from bcos_explain.report.write import render_report, write_report

__all__ = ["Confusion", "GalleryItem", "ReportData", "render_report", "write_report"]
