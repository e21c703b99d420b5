"""The epochs of a run so far: what was measured, which was the best, whether to stop."""

from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list

from bcos_cli.config import EarlyStopping
from bcos_cli.evaluate.classification import Scores
from bcos_cli.train.best_epoch import Role, accuracy_of
from bcos_cli.train.checkpoint import Progress
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.run_folder import RunFolder


class History:
    """``metrics.jsonl`` of a run; the line of an epoch is its last act.

    Args:
        folder: of the run.
        stopping: when it is over early.
    """

    def __init__(self, folder: RunFolder, stopping: EarlyStopping | None) -> None:
        self._folder = folder
        self._stopping = stopping
        self.lines: list[dict[str, Any]] = []

    def share(self) -> None:
        """Give every process the lines that the main one has."""
        self.lines = broadcast_object_list([self.lines])[0]

    def keep(self, epochs: int) -> None:
        """Read the lines of the first `epochs`; later ones will be written again."""
        self._folder.keep_metrics(epochs)
        self.lines = self._folder.read_metrics()

    def add(self, values: dict[str, Any]) -> None:
        """Write the line of an epoch."""
        self._folder.add_metrics(values)
        self.lines.append(values)

    def has(self, epoch: int) -> bool:
        """Whether the epoch, from 1, has its line."""
        return any(line["epoch"] == epoch for line in self.lines)

    def is_best(self, accuracy: float) -> bool:
        """Whether an epoch of this accuracy is better than those that could have been the best."""
        best = [accuracy_of(line) for line in self.lines if line.get("best")]
        return not best or accuracy > max(best)

    def is_over(self, counts: Callable[[int], bool] | None = None) -> bool:
        """Whether the run has not become better for as long as it has patience.

        Args:
            counts: whether a network after so many steps can be compared with what the run ends with; None if each can.
        """
        if self._stopping is None:
            return False
        reached, since = float("-inf"), 0
        for line in self.lines:
            if counts is not None and not counts(line.get("step", 0)):
                continue
            if accuracy_of(line) > reached + self._stopping.min_delta:
                reached, since = accuracy_of(line), 0
            else:
                since += 1
        return since >= self._stopping.patience


def epoch_line(
    progress: Progress,
    train_loss: float,
    lr: float,
    plain: Scores | Agreement,
    averaged: Scores | Agreement | None,
    role: Role = "test",
) -> dict[str, Any]:
    """What an epoch is remembered by; `role` says whether it was scored on images that choose."""
    values: dict[str, Any] = {"epoch": progress.epoch + 1, "step": progress.step, "train_loss": train_loss}
    for prefix, scores in ((role, plain), ("ema", averaged)):
        if scores is not None:
            values |= {f"{prefix}_{name}": value for name, value in _measured(scores).items()}
    return values | {"lr": lr}


def _measured(scores: Scores | Agreement) -> dict[str, float]:
    if isinstance(scores, Agreement):
        return {"loss": scores.loss, "cosine": scores.cosine}
    values = {"loss": scores.loss, "top1": scores.top1}
    if scores.mean_average_precision is not None:
        values["map"] = scores.mean_average_precision
    return values
