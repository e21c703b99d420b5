"""Images that metrics of explanations work on, picked while a split is evaluated."""

from collections.abc import Mapping, Sequence
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
        self._taken: dict[int, tuple[Tensor, int]] = {}

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[int] | Tensor
    ) -> None:
        """Keep those of a batch whose position was chosen."""
        del confidences, predictions
        for i, key in enumerate(torch.as_tensor(keys).tolist()):
            if key in self.positions:
                self._taken[key] = (images[i].cpu().clone(), int(labels[i]))

    def take(self, images: Mapping[int, tuple[Tensor, int]]) -> None:
        """Keep images and labels that were read by their positions."""
        self._taken |= images

    def state(self) -> dict[int, tuple[Tensor, int]]:
        """Image and label by position."""
        return self._taken

    def merge(self, state: dict[int, tuple[Tensor, int]]) -> None:
        """Add those of another process."""
        self.take(state)

    def collected(self) -> tuple[Tensor, Tensor, list[int]]:
        """Images (M, C, H, W), labels (M,) and positions, in order of the split.

        Raises:
            BcosError: there are none.
        """
        if not self._taken:
            raise BcosError("none of the images that were chosen could be read")
        positions = sorted(self._taken)
        images, labels = zip(*(self._taken[p] for p in positions), strict=True)
        return torch.stack(images), torch.tensor(labels), positions
