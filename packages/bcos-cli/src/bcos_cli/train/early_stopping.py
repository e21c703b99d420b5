"""Early stopping: the end of a run that no longer improves. Imports no torch."""

from collections.abc import Callable, Iterable
from typing import Any

from bcos_cli.config import EarlyStopping
from bcos_cli.train.best_epoch import accuracy_of


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
