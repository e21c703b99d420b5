"""Checkpoints of a run: written aside and renamed; the last ones and the best are kept."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor

from bcos_cli.config.section import Count
from bcos_core.errors import BcosError, first_line
from bcos_models.weights import load_data

MODEL, EMA = "model", "ema"
"""Names of weights in a checkpoint."""
BEST = "best"
_STATE = "state.pt"
_ASIDE = re.compile(rf"\.(?P<name>step-[0-9]{{8,}}|{BEST})\.(?P<state>tmp|old)")
"""Names of folders that are being written, removed or replaced."""


@dataclass
class Progress:
    """How far a run has come."""

    epoch: Count = 0
    """Epoch that is being trained, from 0."""
    batch: Count = 0
    """Batches of the epoch that every process has finished."""
    step: Count = 0
    """Optimizer steps in all."""
    losses: list[float] = field(default_factory=list)
    """Sum of losses over these batches, for each process."""
    seconds: float = 0.0
    """Time that the epoch has been trained for."""
    left_out: Count = 0
    """Steps that were left out because their loss was not finite."""
    unread: Count = 0
    """Images of a finished epoch that could not be read, in all processes."""

    def redistribute(self, before: int, now: int, batch: int) -> None:
        """Go on with `now` processes instead of `before`, of which each has then finished `batch` batches."""
        scale = batch / self.batch if self.batch else 1.0  # batches may be of another size
        self.losses = [sum(self.losses) / before * scale] * now
        self.batch = batch


class Checkpoints:
    """The folder ``checkpoints/`` of a run, made on the first save; the last `keep` of them are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self,
        progress: Progress,
        weights: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        """Write ``step-NNNNNNNN/``, which appears whole or not at all; then remove the oldest.

        Args:
            weights: state dicts by name, written as safetensors.
            state: of the optimizer, the scaler and whatever else is needed to resume.
            metadata: strings for the headers of the weights.

        Raises:
            BcosError: it cannot be written; what was there before is still there.
        """
        final = self.folder / f"step-{progress.step:08d}"
        aside = _aside(final)
        try:
            # Nothing reads a folder whose name begins with a dot, and renaming is atomic: whoever is killed in between
            # leaves the last checkpoint as it was. A rename alone would not do, for files may reach the disk later.
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for name, tensors in weights.items():
                whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
                header = {"format": "pt", **(metadata or {})}
                safetensors.torch.save_file(whole, aside / f"{name}.safetensors", metadata=header)
            torch.save({"progress": asdict(progress), **state}, aside / _STATE)
            _replace(aside, final)
        except Exception as reason:  # torch and safetensors report a full disk in types of their own
            shutil.rmtree(aside, ignore_errors=True)
            last = self.all()
            kept = f"the last one is {last[-1]}" if last else "there is none yet"
            raise BcosError(
                f"cannot write a checkpoint to {self.folder} ({first_line(reason)}); {kept}; "
                "make room on the disk and continue with --resume"
            ) from reason
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old.rename(_aside(old)), ignore_errors=True)  # evaluation of the run may be reading it
        return final

    def keep_best(self, checkpoint: Path) -> None:
        """Copy a checkpoint's weights to ``best/``; a BcosError where there is no room."""
        aside = _aside(self.folder / BEST)
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for file in checkpoint.glob("*.safetensors"):
                shutil.copy2(file, aside)
            _replace(aside, self.folder / BEST)
        except OSError as reason:
            raise BcosError(
                f"cannot copy the best weights to {self.folder / BEST} ({reason.strerror}); make room on the disk and "
                "continue with --resume"
            ) from reason

    def clean(self) -> None:
        """Remove what a killed run was writing or removing, and restore what it was replacing."""
        for path in list(self.folder.glob(".*")):
            if (match := _ASIDE.fullmatch(path.name)) is None:
                continue
            final = self.folder / match["name"]
            if match["state"] == "tmp" or final.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(final)

    def all(self) -> list[Path]:
        """All checkpoints that are whole, oldest first; not the best."""
        return sorted(p for p in self.folder.glob("step-*") if (p / _STATE).exists())

    def last(self) -> Path | None:
        """Return the last checkpoint, if there is one."""
        return checkpoints[-1] if (checkpoints := self.all()) else None

    def best(self) -> Path | None:
        """Return the folder with the weights of the best epoch, if there is one."""
        places = (self.folder / BEST, self.folder / f".{BEST}.old")  # the second while it is being replaced
        return next((folder for folder in places if folder.is_dir()), None)


def load_progress(checkpoint: Path) -> tuple[Progress, dict[str, Any]]:
    """Read progress and state of a checkpoint; refuse a damaged one."""
    try:
        state = load_data(checkpoint / _STATE)
        return TypeAdapter(Progress).validate_python(state.pop("progress")), state
    except Exception as reason:  # pickle and zip raise many types
        raise _damaged(checkpoint, reason) from reason


def load_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """Read the weights called `name` of a checkpoint; refuse damaged ones."""
    try:
        return safetensors.torch.load_file(checkpoint / f"{name}.safetensors")
    except Exception as reason:  # safetensors raises several types
        raise _damaged(checkpoint, reason) from reason


def _damaged(checkpoint: Path, reason: Exception) -> BcosError:
    return BcosError(
        f"the checkpoint {checkpoint} is damaged ({first_line(reason)[:120]}); remove it to resume from the one before"
    )


def _aside(final: Path) -> Path:
    """Return where a checkpoint is while it is not whole."""
    return final.with_name(f".{final.name}.tmp")


def _replace(aside: Path, final: Path) -> None:
    """Put a folder in the place of `final` once its files are on the disk."""
    for path in (*aside.iterdir(), aside):
        _flush(path)
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    aside.rename(final)
    _flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
