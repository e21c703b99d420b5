"""What makes one epoch of a run better than another. Imports no torch."""

from typing import Any, Literal

from bcos_core.errors import BcosError

Role = Literal["val", "test"]

MEASURES = ("map", "cosine", "top1")
"""The first of them that an epoch has: several labels, embeddings, classes."""


def role_of(line: dict[str, Any]) -> Role:
    """Images on which an epoch, a line of ``metrics.jsonl``, was scored: those that choose, or those of the end."""
    return "val" if "val_loss" in line or any(f"val_{name}" in line for name in MEASURES) else "test"


def measure_of(line: dict[str, Any]) -> str:
    """Name of the measure by which an epoch, a line of ``metrics.jsonl``, is compared with others.

    Raises:
        BcosError: it has none.
    """
    for name in MEASURES:
        if f"{role_of(line)}_{name}" in line or f"ema_{name}" in line:
            return name
    raise BcosError(f"epoch {line.get('epoch')} has no accuracy among its numbers; remove its line of metrics.jsonl")


def accuracy_of(line: dict[str, Any]) -> float:
    """What the best epoch has most of: of the averaged weights where there are any."""
    name = measure_of(line)
    return float(line[key if (key := f"ema_{name}") in line else f"{role_of(line)}_{name}"])


def loss_of(line: dict[str, Any]) -> float | None:
    """Loss on the images on which the epoch was scored."""
    return line.get(f"{role_of(line)}_loss")
