"""What a report shows; plain data, checked when it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """One explained image.

    Raises:
        BcosError: pictures of different sizes or numbers of channels.
    """

    input: NDArray[Any]
    """(H, W, 3) in [0, 1]; see :func:`bcos_explain.input_image`."""
    explanation: NDArray[Any]
    """(H, W, 4) in [0, 1]; see :func:`bcos_explain.explanation_image`."""
    map: NDArray[Any]
    """(H, W), contributions to the logit of the predicted class."""
    true_class: str
    predicted_class: str
    confidence: float
    """Probability of the predicted class."""
    logit: float
    """Of the predicted class."""
    bias: float
    """Part of the logit that does not come from the input."""

    def __post_init__(self) -> None:
        size = self.map.shape
        if len(size) != 2 or self.input.shape != (*size, 3) or self.explanation.shape != (*size, 4):
            raise BcosError(
                "a gallery item needs input (H, W, 3), explanation (H, W, 4) and map (H, W), "
                f"got {self.input.shape}, {self.explanation.shape} and {size}"
            )

    @property
    def correct(self) -> bool:
        """Whether the prediction is right."""
        return self.true_class == self.predicted_class


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for each.

    Raises:
        BcosError: a matrix that does not fit the names.
    """

    matrix: NDArray[Any] | Sequence[Sequence[int]]
    """(K, K) counts: a row for each true class, a column for each predicted one."""
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        k = len(self.class_names)
        if self.counts.shape != (k, k):
            raise BcosError(f"a confusion matrix of {k} classes must be ({k}, {k}), got {self.counts.shape}")

    @property
    def counts(self) -> NDArray[np.int64]:
        """(K, K), as an array."""
        return np.asarray(self.matrix, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows. Parts that are empty are left out."""

    title: str
    summary: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Tables of labels and values, by heading: ``{"Model": {"name": "resnet18"}, ...}``."""
    curves: Sequence[Mapping[str, float | None]] = ()
    """
    For each epoch ``epoch`` and any of ``train_loss``, ``test_loss``, ``test_top1`` (a share or percentage)
    and ``lr``.
    """
    confusion: Confusion | None = None
    gallery: Sequence[GalleryItem] = ()
    """Shown in order, in a section for each true class."""
    gridpg: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Scores of the grid pointing game for each explainer."""
    gridpg_n: int = 2
    """Images in a row of a grid; a uniform attribution scores ``1 / n²``."""
    notes: Sequence[str] = ()
    """Paragraphs at the end."""
