"""What makes an epoch of a run the best: its accuracy, and the images it was scored on. Imports no torch."""

from typing import Any, Literal

from bcos_core.errors import BcosError

Role = Literal["val", "test"]

MEASURES = ("map", "cosine", "top1")
"""Accuracies: an epoch has the first where images have several labels, the second where an embedding is learned."""


def role_of(line: dict[str, Any]) -> Role:
    """Return which images an epoch, a line of ``metrics.jsonl``, was scored on: those that choose or the final ones."""
    return "val" if "val_loss" in line or any(f"val_{name}" in line for name in MEASURES) else "test"


def measure_of(line: dict[str, Any]) -> str:
    """Return the name of the accuracy by which an epoch, a line of ``metrics.jsonl``, is compared with others.

    Raises:
        BcosError: it has none.
    """
    for name in MEASURES:
        if f"{role_of(line)}_{name}" in line or f"ema_{name}" in line:
            return name
    raise BcosError(f"epoch {line.get('epoch')} has no accuracy among its numbers; remove its line of metrics.jsonl")


def accuracy_of(line: dict[str, Any]) -> float:
    """Return the accuracy that the best epoch has most of; of the averaged weights, where there are any."""
    name = measure_of(line)
    return float(line[key if (key := f"ema_{name}") in line else f"{role_of(line)}_{name}"])


def loss_of(line: dict[str, Any]) -> float | None:
    """Return the loss on the images that the epoch was scored on."""
    return line.get(f"{role_of(line)}_loss")
