"""The images of a split that metrics of explanations work on."""

from collections.abc import Sequence
from typing import Any

from bcos_cli.data.index import ShardIndex
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.samplers import SampledImages, Sampler
from bcos_explain import MetricSpec
from bcos_explain.metrics import ConfidentImages

MIN_CONFIDENCE = 0.5
"""Images for the pointing games are classified correctly with more than this probability."""


class SplitImages:
    """The images of a split that metrics work on: some spread evenly, some classified with confidence.

    Args:
        specs: descriptions of the metrics.
        index: index of the shards.
        options: say how many images are needed.
    """

    def __init__(self, specs: Sequence[MetricSpec], index: ShardIndex, options: EvaluationOptions) -> None:
        needing = [spec for spec in specs if needs_confidence(spec)]
        self.sampled: SampledImages | None = None
        self.confident: ConfidentImages | None = None
        if len(needing) < len(specs):
            self.sampled = SampledImages(options.images, index.samples(options.split))
        if needing:
            classes = len(index.classes)
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
