"""Descriptions that plugins return: light, frozen, importable without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RecipeSpec:
    """A training recipe by name."""

    name: str
    path: Path
    """The YAML file."""
    summary: str = ""


@dataclass(frozen=True)
class LossSpec:
    """A training loss by name."""

    name: str
    builder: str
    """``"module:function"``, called with :class:`bcos_cli.train.losses.LossOptions`.

    Returns a ``torch.nn.Module`` that takes logits (N, K) and targets, (N,) or (N, K), and returns their mean loss.
    """
    probabilities: Literal["sigmoid", "softmax"] = "sigmoid"
    """What makes probabilities of the logits of a network that was trained with it."""
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
