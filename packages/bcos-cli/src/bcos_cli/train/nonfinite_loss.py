"""Losses that are infinite or not a number: how they are found, and what becomes of the step and its batch."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bcos_cli.processes.group import any_process
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_models.weights import not_finite, some_of


def check_weights(network: nn.Module, epoch: int, step: int, device: torch.device) -> None:
    """Refuse weights that are infinite or not a number, which no checkpoint may hold; all processes must call this."""
    bad = not_finite(network)
    if any_process(bool(bad), device):
        raise BcosError(
            f"weights are not finite after epoch {epoch}, step {step:,} ({some_of(bad) or 'in another process'}); the "
            "checkpoint before is kept; lower optimizer.lr, set clipping.norm, or use train.precision=no"
        )


def loss_error(epoch: int, step: int, rate: float, kept: Path) -> BcosError:
    """Describe a loss that was not finite, at a learning rate of `rate`, with the batch in the file `kept`."""
    return BcosError(
        f"the loss is not finite at epoch {epoch}, step {step:,}, learning rate {rate:.2g}; lower optimizer.lr, set "
        "clipping.norm, use train.precision=no, or leave such steps out with train.on_not_finite=skip; the batch is "
        f"kept in {kept}"
    )


class RunningLoss:
    """The sum of losses, and the first batch whose loss is not finite, kept on the device without waiting for it.

    Args:
        total: sum so far, where an epoch is continued.
    """

    def __init__(self, device: torch.device, total: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        self.total = torch.tensor(total, device=device, dtype=dtype)
        self._first = torch.tensor(-1, device=device)

    def add(self, loss: Tensor, batch: int) -> None:
        """Add the loss of a batch."""
        bad = ~torch.isfinite(loss) & (self._first < 0)
        self._first = torch.where(bad, batch, self._first)
        self.total += loss

    def first_bad(self) -> int | None:
        """Return the number of the first batch without a finite loss, if there is one; waits for the device."""
        first = int(self._first)
        return None if first < 0 else first


def check_skipped(count: int, limit: int, where: str) -> None:
    """Refuse to go on once `count`, the steps that were left out, is more than `limit`."""
    if count > limit:
        raise BcosError(
            f"the loss or gradient was not finite in {count} steps, the last {where}; "
            "lower optimizer.lr, set clipping.norm, or allow more with train.max_not_finite"
        )


def keep_batch(path: Path, images: Tensor, labels: Tensor, positions: Tensor) -> None:
    """Write a batch to a safetensors file: 8-bit ``images``, ``labels``, and ``positions`` in the split."""
    tensors = {"images": images, "labels": labels, "positions": positions}
    write_atomically(path, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))
