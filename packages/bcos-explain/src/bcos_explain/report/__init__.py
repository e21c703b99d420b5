"""A report of a trained network as one self-contained HTML file."""

from bcos_explain.report.data import Confusion, GalleryItem, MetricScores, NeuronItem, NeuronRow, ReportData, Table
from bcos_explain.report.write import render_report, write_report

__all__ = [
    "Confusion",
    "GalleryItem",
    "MetricScores",
    "NeuronItem",
    "NeuronRow",
    "ReportData",
    "Table",
    "render_report",
    "write_report",
]
