"""Samplers, which pick images for the metrics of explanations while a split is evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bcos_cli.data.index import ShardIndex
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_core.errors import BcosError
from bcos_explain import MetricSpec
from bcos_explain.metrics import ConfidentImages

MIN_CONFIDENCE = 0.5
"""Images for the pointing games are classified correctly with more than this probability."""


class SampledImages:
    """Images spread evenly over a split: those at positions ``⌊i · total / count⌋``; all if there are fewer."""

    def __init__(self, count: int, total: int) -> None:
        if count < 1:
            raise BcosError(f"images must be at least 1, got {count}")
        self.positions = {i * total // count for i in range(count)} if count < total else set(range(total))
        self._images: dict[int, tuple[Tensor, int]] = {}

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[int] | Tensor
    ) -> None:
        """Keep the images of a batch whose position, their key, was chosen."""
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


Sampler = SampledImages | ConfidentImages
"""Gets every image of a split once, over all processes, and keeps some of it; states are merged at the end."""


class SplitImages:
    """The images of a split that metrics work on: some spread evenly, some classified with confidence."""

    def __init__(self, specs: Sequence[MetricSpec], index: ShardIndex, options: EvaluationOptions) -> None:
        needing = [spec for spec in specs if needs_confidence(spec)]
        self.sampled: SampledImages | None = None
        self.confident: ConfidentImages | None = None
        if len(needing) < len(specs):
            self.sampled = SampledImages(options.images, index.samples(options.split))
        if needing:
            classes = sum(k >= 0 for k in index.numbers)
            needed = max(options.grids * options.grid_size**2, classes)
            per_class = 2 * -(-needed // classes)  # grids draw at random: some classes are needed more often
            self.confident = ConfidentImages(per_class, min_confidence=MIN_CONFIDENCE)

    @property
    def samplers(self) -> list[Sampler]:
        """The samplers that have to get every image of the split."""
        return [sampler for sampler in (self.sampled, self.confident) if sampler is not None]

    def inputs(self, spec: MetricSpec) -> dict[str, Any]:
        """Return what the metric may need, by name."""
        sampler = self.confident if needs_confidence(spec) else self.sampled
        assert sampler is not None
        images, labels, extra = sampler.collected()
        return {"images": images, "labels": labels, "confidences" if needs_confidence(spec) else "keys": extra}

    def keys(self, spec: MetricSpec) -> list[int]:
        """Return the positions that the scores of a metric of single images belong to; empty for other metrics."""
        if self.sampled is None or spec.unit != "image" or needs_confidence(spec):
            return []
        return sorted(self.sampled.state())


def needs_confidence(spec: MetricSpec) -> bool:
    """Whether a metric is about correctly classified images, which have one label each."""
    return spec.unit == "grid" or "confidences" in spec.needs
