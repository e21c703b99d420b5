"""Explaining image files and clips: what ``bcos explain`` does."""

from bcos_cli.explaining.files import explain_files
from bcos_cli.explaining.options import ClipOptions, Layout, PictureOptions, Scale
from bcos_cli.explaining.records import ExplainedImage, Written

__all__ = ["ClipOptions", "ExplainedImage", "Layout", "PictureOptions", "Scale", "Written", "explain_files"]
