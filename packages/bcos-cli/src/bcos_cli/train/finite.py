"""Losses and weights that are infinite or not a number: found, told, and the batch kept."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bcos_core.errors import BcosError
from bcos_core.files import write_atomically


def not_finite(network: nn.Module) -> list[str]:
    """Say of every parameter and saved buffer how many of its values are infinite or not a number, where any are.

    Of tensors that are spread over processes, those of this process. Waits for the device once if all are finite.
    """
    saved = [(f"parameter {name}", parameter) for name, parameter in network.named_parameters()]
    for prefix, module in network.named_modules():
        path = f"{prefix}." if prefix else ""
        kept = (entry for entry in module._buffers.items() if entry[0] not in module._non_persistent_buffers_set)
        saved += [(f"buffer {path}{name}", buffer) for name, buffer in kept if buffer is not None]
    own = [(name, t.to_local() if isinstance(t, DTensor) else t.detach()) for name, t in saved]
    own = [(name, t) for name, t in own if t.is_floating_point() or t.is_complex()]
    if not own:
        return []
    device = own[0][1].device
    finite = torch.stack([torch.isfinite(t).all().to(device) for _, t in own]).tolist()
    return [f"{name} holds {_counted(t)}" for (name, t), is_finite in zip(own, finite, strict=True) if not is_finite]


def _counted(values: Tensor) -> str:
    counts = {"NaN": int(values.isnan().sum()), "infinite": int(values.isinf().sum())}
    return " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


def some_of(found: list[str]) -> str:
    """The first of what :func:`not_finite` has found, and how many there are besides."""
    return "; ".join([*found[:1], *([f"{len(found) - 1} more tensors"] if len(found) > 1 else [])])


def check_finite(network: nn.Module, *, agree: Callable[[int], int] | None = None) -> None:
    """Refuse a network whose weights are not all finite: whatever it answers means nothing.

    Args:
        network: about to be used.
        agree: sums a number over all processes, where each may hold another part of the network.

    Raises:
        BcosError: naming a parameter or buffer.
    """
    found = not_finite(network)
    if found or (agree is not None and agree(len(found))):
        raise BcosError(
            f"the weights of the network are not finite: {some_of(found) or 'those of another process'}; give other "
            "weights, or train it again"
        )


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
