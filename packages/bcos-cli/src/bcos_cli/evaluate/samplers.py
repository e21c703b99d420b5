"""Samplers, which pick images for the metrics of explanations while a split is evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bcos_core.errors import BcosError


class Sampler(Protocol):
    """Gets every image of a split once, over all processes, and keeps some; states are merged at the end."""

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[int] | Tensor
    ) -> None:
        """Take a batch into account: 8-bit images, labels, confidences and classes predicted, positions."""

    def state(self) -> Any:
        """Return what another process needs to know."""

    def merge(self, state: Any) -> None:
        """Add the state of another process."""


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
        self._images: dict[int, tuple[Tensor, int]] = {}

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[int] | Tensor
    ) -> None:
        """Keep the images of a batch whose position was chosen."""
        del confidences, predictions
        for i, key in enumerate(torch.as_tensor(keys).tolist()):
            if key in self.positions:
                self._images[key] = (images[i].cpu().clone(), int(labels[i]))

    def state(self) -> dict[int, tuple[Tensor, int]]:
        """Return image and label by position."""
        return self._images

    def merge(self, state: Mapping[int, tuple[Tensor, int]]) -> None:
        """Add images and labels by position, of another process or read elsewhere."""
        self._images |= state

    def collected(self) -> tuple[Tensor, Tensor, list[int]]:
        """Return images (M, C, H, W), labels (M,) and positions, in order of the split.

        Raises:
            BcosError: there are none.
        """
        if not self._images:
            raise BcosError("none of the images that were chosen could be read")
        positions = sorted(self._images)
        images, labels = zip(*(self._images[p] for p in positions), strict=True)
        return torch.stack(images), torch.tensor(labels), positions
