"""Checkpoints of a run: written aside and renamed, the last ones and the best kept."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bcos_core.errors import BcosError
from bcos_models import load_weights, save_weights

_WEIGHTS = "model.safetensors"
_STATE = "state.pt"
BEST = "best"


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimizer steps taken."""
    best_top1: float = -1.0


class Checkpoints:
    """The folder ``checkpoints/`` of a run.

    Args:
        folder: made on the first save.
        keep: how many of the last ones are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, model: nn.Module, state: dict[str, Any], progress: Progress, *, is_best: bool) -> Path:
        """Write ``epoch-NNNN/``, and copy it to ``best/`` if it is the best so far.

        Args:
            model: whose weights are written as safetensors.
            state: of optimizer and scaler.
            progress: epochs, steps and best accuracy.
            is_best: whether this is the best so far.
        """
        final = self.folder / f"epoch-{progress.epoch:04d}"
        aside = self.folder / f".{final.name}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_weights(model, aside / _WEIGHTS)
        torch.save({"progress": vars(progress), **state}, aside / _STATE)
        if is_best:  # first, so that a checkpoint never tells of a best one that is not there
            copy = self.folder / f".{BEST}.tmp"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(aside, copy)
            _replace(copy, self.folder / BEST)
        _replace(aside, final)
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def all(self) -> list[Path]:
        """All checkpoints that are whole, oldest first; not the best."""
        return sorted(p for p in self.folder.glob("epoch-*") if (p / _STATE).exists())

    def load_last(self, model: nn.Module) -> tuple[Progress, dict[str, Any]] | None:
        """Fill `model` from the last checkpoint; None if there is none.

        Raises:
            BcosError: it is damaged.
        """
        checkpoints = self.all()
        if not checkpoints:
            return None
        load_weights(model, checkpoints[-1] / _WEIGHTS)
        try:
            state = torch.load(checkpoints[-1] / _STATE, map_location="cpu", weights_only=True)
        except Exception as reason:  # pickle and zip raise many types
            raise BcosError(
                f"the checkpoint {checkpoints[-1]} is damaged ({' '.join(str(reason).split())[:120]}); "
                f"remove it to resume from the one before"
            ) from reason
        return Progress(**state.pop("progress")), state


def _replace(aside: Path, final: Path) -> None:
    """Put `aside` in the place of `final`."""
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        aside.rename(final)
        shutil.rmtree(old)
    else:
        aside.rename(final)
