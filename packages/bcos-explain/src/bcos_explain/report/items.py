"""Explained images that a report shows; plain data, checked when it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_core.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """An input with its explanation.

    Raises:
        BcosError: pictures or maps of different sizes or numbers of channels.
    """

    _what: ClassVar[str]
    input: NDArray[Any]
    """(H, W, 3) in [0, 1]; see :func:`bcos_explain.input_image`."""
    explanation: NDArray[Any]
    """(H, W, 4) in [0, 1]; see :func:`bcos_explain.explanation_image`."""
    map: NDArray[Any]
    """(H, W), contributions to what is explained."""

    def __post_init__(self) -> None:
        size = self.map.shape
        if len(size) != 2 or self.input.shape != (*size, 3) or self.explanation.shape != (*size, 4):
            raise BcosError(
                f"{self._what} needs input (H, W, 3), explanation (H, W, 4) and map (H, W), "
                f"got {self.input.shape}, {self.explanation.shape} and {size}"
            )


@dataclass(frozen=True, kw_only=True)
class GalleryItem(_Pictures):
    """One explained image; its map is of the logit of the predicted class."""

    _what = "a gallery item"
    true_class: str
    predicted_class: str
    confidence: float
    """Probability of the predicted class."""
    receipt: Receipt
    """Receipt of the logit of the predicted class."""
    baselines: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Maps (H, W) of other explainers, signed or not, each shown on a scale of its own."""
    name: str = ""
    """Name of the image, such as its file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, other in self.baselines.items():
            if np.shape(other) != self.map.shape:
                raise BcosError(
                    f"the map of {name!r} must have the shape of the contributions {self.map.shape}, "
                    f"got {np.shape(other)}; sum over channels and upsample it first"
                )

    @property
    def correct(self) -> bool:
        """Whether the prediction is right."""
        return self.true_class == self.predicted_class


@dataclass(frozen=True, kw_only=True)
class NeuronItem(_Pictures):
    """One image that activates a channel, explained for that channel."""

    _what = "an image of a neuron"
    score: float
    """Activation of the channel."""
    label: str = ""
    """What the image is, such as its class."""


@dataclass(frozen=True, kw_only=True)
class NeuronRow:
    """A channel of a layer with the images that activate it most, in order.

    Source: Böhle et al., CVPR 2022, section 5.2, which explains intermediate neurons in this way.
    """

    layer: str
    channel: int
    items: Sequence[NeuronItem]
