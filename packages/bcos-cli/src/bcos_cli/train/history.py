"""The epochs of a run so far, as ``metrics.jsonl`` holds them."""

from typing import Any

from accelerate.utils import broadcast_object_list

from bcos_cli.evaluate.classification import Scores
from bcos_cli.train.best_epoch import Role, accuracy_of
from bcos_cli.train.checkpoint import Progress
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.run_folder import RunFolder


class History:
    """``metrics.jsonl`` of a run. An epoch is over once its line is written, which is the last thing it does."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.lines: list[dict[str, Any]] = []

    def share(self) -> None:
        """Give every process the lines that the main one has."""
        self.lines = broadcast_object_list([self.lines])[0]

    def keep(self, epochs: int) -> None:
        """Read the lines of the first `epochs`; later ones will be written again."""
        self.lines = self._folder.keep_metrics(epochs)

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


def epoch_line(
    progress: Progress,
    train_loss: float,
    lr: float,
    plain: Scores | Agreement,
    averaged: Scores | Agreement | None,
    role: Role = "test",
) -> dict[str, Any]:
    """Return the line of an epoch; `role` says whether it was scored on images that choose, or on those of the end."""
    values: dict[str, Any] = {"epoch": progress.epoch + 1, "step": progress.step, "train_loss": train_loss}
    for prefix, scores in ((role, plain), ("ema", averaged)):
        if scores is not None:
            values |= {f"{prefix}_{name}": value for name, value in _measures(scores).items()}
    values["lr"] = lr
    counts = {
        "skipped": progress.unread,
        f"{role}_skipped": (averaged or plain).unread,
        "steps_left_out": progress.left_out,
    }
    return values | {name: count for name, count in counts.items() if count}


def _measures(scores: Scores | Agreement) -> dict[str, float]:
    if isinstance(scores, Agreement):
        return {"loss": scores.loss, "cosine": scores.cosine}
    values = {"loss": scores.loss, "top1": scores.top1}
    if scores.mean_average_precision is not None:
        values["map"] = scores.mean_average_precision
    return values
