"""Descriptions that plugins return: light, frozen, importable without torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecipeSpec:
    """A training recipe by name."""

    name: str
    path: Path
    """The YAML file."""
    summary: str = ""


@dataclass(frozen=True)
class DatasetSpec:
    """A source of images by name."""

    name: str
    builder: str
    """``"module:function"``, called without arguments.

    Returns a :class:`bcos_cli.data.sources.ImageSource`.
    """
    summary: str = ""
