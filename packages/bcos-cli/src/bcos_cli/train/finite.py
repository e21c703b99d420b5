"""Losses that are infinite or not a number: how they are found, and what becomes of the step and its batch."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.files import write_atomically


class LossWatch:
    """Adds up losses, and remembers the first batch whose loss is not finite without waiting for the device.

    Args:
        device: of the losses.
        total: sum so far, where an epoch is continued.
        dtype: of the sum.
    """

    def __init__(self, device: torch.device, total: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        self.total = torch.tensor(total, device=device, dtype=dtype)
        self._first = torch.tensor(-1, device=device)

    def add(self, loss: Tensor, batch: int) -> None:
        """Take the loss of a batch into account."""
        bad = ~torch.isfinite(loss) & (self._first < 0)
        self._first = torch.where(bad, batch, self._first)
        self.total += loss

    def first_bad(self) -> int | None:
        """Return the number of the first batch without a finite loss, if there is one; waits for the device."""
        first = int(self._first)
        return None if first < 0 else first


class SkippedSteps:
    """Steps that were left out because their loss or gradient was not finite.

    Args:
        limit: so many are borne.
        count: so far.
    """

    def __init__(self, limit: int, count: int = 0) -> None:
        self.limit = limit
        self.count = count

    def add(self, where: str) -> None:
        """Count one more.

        Raises:
            BcosError: too many.
        """
        self.count += 1
        if self.count > self.limit:
            raise BcosError(
                f"the loss or gradient was not finite in {self.count} steps, the last {where}; "
                "lower optimizer.lr, set clipping.norm, or allow more with train.max_not_finite"
            )


class Buffers:
    """Running statistics as they were before a step, which a loss that is not finite may have spoilt."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def restore(self) -> None:
        """Put them back."""
        with torch.no_grad():
            for buffer, kept in self._kept:
                buffer.copy_(kept)


def keep_batch(path: Path, images: Tensor, labels: Tensor, positions: Tensor) -> None:
    """Write a batch to a safetensors file: 8-bit ``images``, ``labels``, and ``positions`` in the split."""
    tensors = {"images": images, "labels": labels, "positions": positions}
    write_atomically(path, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))
