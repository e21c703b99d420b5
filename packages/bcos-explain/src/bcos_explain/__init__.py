"""Explainers, metrics, pictures and reports for B-cos networks. Importing this package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING

from bcos_core.display import register_html

if TYPE_CHECKING:
    from bcos_explain import explainers, export, metrics, neurons, render, report
    from bcos_explain.batch import ClassExplanation, ClassTarget, ExplainedImage, explain_batch
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

__all__ = [
    "ClassExplanation",
    "ClassTarget",
    "ExplainedImage",
    "ExplainerSpec",
    "GalleryItem",
    "MetricSpec",
    "ReportData",
    "contribution_rgb",
    "explain_batch",
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
# Where names are looked for, in this order; those that come late import torch or matplotlib.
_PACKAGES = ("explainers", "export", "metrics", "neurons", "render", "report")
_HOMES = ("spec", "hookspecs", "registry", "render", "report", "batch")


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
