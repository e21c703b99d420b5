"""Images that metrics of explanations work on, picked while a split is evaluated."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bcos_core.errors import BcosError


class Collector(Protocol):
    """Sees every image of a split once, over all processes; its state is merged at the end."""

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[int] | Tensor
    ) -> None:
        """Take a batch into account: 8-bit images, labels, confidences and classes predicted, positions."""

    def state(self) -> Any:
        """What another process needs to know."""

    def merge(self, state: Any) -> None:
        """Take what another process saw into account."""


class SampledImages:
    """Images spread evenly over a split: those at positions ``⌊i · total / count⌋``.

    Args:
        count: images to take, all if there are fewer.
        total: images in the split.
    """

    def __init__(self, count: int, total: int) -> None:
        if count < 1:
            raise BcosError(f"images must be at least 1, got {count}")
        self.positions = {i * total // count for i in range(count)} if count < total else set(range(total))
        self._taken: dict[int, tuple[Tensor, int, int]] = {}

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[int] | Tensor
    ) -> None:
        """Keep those of a batch whose position was chosen."""
        del confidences
        for i, key in enumerate(torch.as_tensor(keys).tolist()):
            if key in self.positions:
                self._taken[key] = (images[i].cpu().clone(), int(labels[i]), int(predictions[i]))

    def state(self) -> dict[int, tuple[Tensor, int, int]]:
        """Image, label and predicted class by position."""
        return self._taken

    def merge(self, state: dict[int, tuple[Tensor, int, int]]) -> None:
        """Add those of another process."""
        self._taken |= state

    def collected(self) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Images (M, C, H, W), labels (M,), predicted classes (M,) and positions, in order of the split."""
        positions = sorted(self._taken)
        images, labels, predictions = zip(*(self._taken[p] for p in positions), strict=True)
        return torch.stack(images), torch.tensor(labels), torch.tensor(predictions), positions
