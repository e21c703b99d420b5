"""Explainers, metrics, pictures and reports for B-cos networks. Importing this package imports no torch."""

from bcos_core.lazy import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__)
