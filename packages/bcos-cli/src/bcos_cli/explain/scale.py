"""The scale of colours and opacity, of one image or of many."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_explain import ClassExplanation, ExplainedImage
from bcos_explain.render import percentile_of_many


@dataclass(frozen=True)
class Scale:
    """What colours and opacity stand for."""

    limits: dict[str, float]
    """Contribution at the ends of the colours, by method."""
    alphas: dict[str, float]
    """Norm of W at which its picture is opaque, by method; none where nothing contributes."""

    @classmethod
    def of(cls, images: Iterable[ExplainedImage]) -> "Scale":
        """Return the scale that suits all images, which are iterated more than once."""
        methods = list(dict.fromkeys(e.method for image in images for e in image.explanations))
        limits = {method: _percentile(images, method, lambda e: e.map) or 1.0 for method in methods}
        alphas = {
            method: _percentile(images, method, lambda e: None if e.picture is None else e.picture.strength)
            for method in methods
        }
        return cls(limits, {method: alpha for method, alpha in alphas.items() if alpha})

    def to_dict(self, explanation: ClassExplanation) -> dict[str, float | None]:
        """Return the scale of the pictures of an explanation, for JSON."""
        return {"limit": self.limits[explanation.method], "alpha": self.alphas.get(explanation.method)}


def _percentile(
    images: Iterable[ExplainedImage], method: str, array_of: Callable[[ClassExplanation], NDArray[Any] | None]
) -> float:
    """Return the percentile of the absolute values of an array over all explanations by a method; 0 without any."""

    def arrays() -> Iterator[NDArray[Any]]:
        for image in images:
            for explanation in image.explanations:
                if explanation.method == method and (array := array_of(explanation)) is not None:
                    yield np.abs(array)

    count = sum(array.size for array in arrays())
    return percentile_of_many(arrays(), count) if count else 0.0
