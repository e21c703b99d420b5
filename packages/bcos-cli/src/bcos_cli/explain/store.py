"""Explained images on disk, so that any number of them can wait for a common scale."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_explain import ClassExplanation, ExplainedImage
from bcos_explain.render import WeightPicture

_EMPTY: NDArray[Any] = np.empty((0, 0), np.float32)


class ImageStore:
    """Explained images, in order, whose arrays lie in an existing folder, which the caller removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.without_arrays: list[ExplainedImage] = []
        """All images, with numbers only."""

    def add(self, image: ExplainedImage) -> None:
        """Store an image."""
        number = len(self.without_arrays)
        np.save(self._folder / f"{number}.npy", image.image)
        for i, explanation in enumerate(image.explanations):
            _save(self._file(number, i), explanation)
        numbers = tuple(replace(e, map=_EMPTY, weight=None, picture=None) for e in image.explanations)
        self.without_arrays.append(replace(image, image=_EMPTY.astype(np.uint8), explanations=numbers))

    def __iter__(self) -> Iterator[ExplainedImage]:
        """Yield all images in order, each with its arrays."""
        for number, image in enumerate(self.without_arrays):
            explanations = tuple(_loaded(self._file(number, i), e) for i, e in enumerate(image.explanations))
            yield replace(image, image=np.load(self._folder / f"{number}.npy"), explanations=explanations)

    def __len__(self) -> int:
        return len(self.without_arrays)

    def _file(self, number: int, i: int) -> Path:
        return self._folder / f"{number}.{i}.npz"


def _save(path: Path, explanation: ClassExplanation) -> None:
    picture = explanation.picture
    arrays: dict[str, Any] = {"map": explanation.map}
    if explanation.weight is not None:
        arrays["weight"] = explanation.weight
    if picture is not None:
        arrays |= {"colours": picture.colours, "strength": picture.strength}
    np.savez(path, **arrays)


def _loaded(path: Path, explanation: ClassExplanation) -> ClassExplanation:
    with np.load(path) as arrays:
        picture = WeightPicture(arrays["colours"], arrays["strength"]) if "colours" in arrays else None
        return replace(explanation, map=arrays["map"], weight=arrays.get("weight"), picture=picture)
