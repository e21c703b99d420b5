"""What makes an epoch of a run the best, and when a run that no longer improves stops early. Imports no torch."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from bcos_cli.config import EarlyStopping
from bcos_core.errors import BcosError

Role = Literal["val", "test"]

MEASURES = ("map", "cosine", "top1")
"""Accuracies: an epoch has the first where images have several labels, the second where an embedding is learned."""


def role_of(line: dict[str, Any]) -> Role:
    """Return which images an epoch, a line of ``metrics.jsonl``, was scored on: those that choose or the final ones."""
    return "val" if "val_loss" in line or any(f"val_{name}" in line for name in MEASURES) else "test"


def measure_of(line: dict[str, Any]) -> str:
    """Return the name of the accuracy by which epochs, lines of ``metrics.jsonl``, are compared; refuse one without."""
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


def should_stop(
    lines: Iterable[dict[str, Any]], options: EarlyStopping | None, comparable: Callable[[int], bool] | None = None
) -> bool:
    """Whether no epoch has been better than the best before it for as long as the recipe has patience.

    Args:
        options: section of the recipe; None never stops.
        comparable: whether the network after so many steps is of the kind that the run ends with; None if it always is.
    """
    if options is None:
        return False
    best, epochs_since = float("-inf"), 0
    for line in lines:
        if comparable is not None and not comparable(line.get("step", 0)):
            continue
        if accuracy_of(line) > best + options.min_delta:
            best, epochs_since = accuracy_of(line), 0
        else:
            epochs_since += 1
    return epochs_since >= options.patience
