"""Explainers, metrics, pictures and reports for B-cos networks. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

from bcos_core.display import register_html

if TYPE_CHECKING:
    from bcos_explain import explainers, export, metrics, neurons, render, report
    from bcos_explain.hookspecs import hookimpl
    from bcos_explain.registry import (
        explainer_specs,
        get_explainer,
        get_metric,
        list_explainers,
        list_metrics,
        metric_specs,
    )
    from bcos_explain.render import (
        contribution_rgb,
        explanation_image,
        input_image,
        on_background,
        plot_contribution_map,
        save_png,
    )
    from bcos_explain.report import GalleryItem, ReportData, write_report
    from bcos_explain.spec import ExplainerSpec, MetricSpec

__version__ = "0.1.0"

register_html("bcos_explain.render.notebook:explanation_html")  # how notebooks show explanations

_HOMES = {
    "ExplainerSpec": "spec",
    "GalleryItem": "report",
    "MetricSpec": "spec",
    "ReportData": "report",
    "contribution_rgb": "render",
    "explainer_specs": "registry",
    "explanation_image": "render",
    "get_explainer": "registry",
    "get_metric": "registry",
    "hookimpl": "hookspecs",
    "input_image": "render",
    "list_explainers": "registry",
    "list_metrics": "registry",
    "metric_specs": "registry",
    "on_background": "render",
    "plot_contribution_map": "render",
    "save_png": "render",
    "write_report": "report",
}
_MODULES = ("explainers", "export", "metrics", "neurons", "render", "report")

__all__ = [
    "ExplainerSpec",
    "GalleryItem",
    "MetricSpec",
    "ReportData",
    "contribution_rgb",
    "explainer_specs",
    "explainers",
    "explanation_image",
    "export",
    "get_explainer",
    "get_metric",
    "hookimpl",
    "input_image",
    "list_explainers",
    "list_metrics",
    "metric_specs",
    "metrics",
    "neurons",
    "on_background",
    "plot_contribution_map",
    "render",
    "report",
    "save_png",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
