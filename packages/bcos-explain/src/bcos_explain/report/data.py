"""What a report shows; plain data, checked when it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_core.receipt import Receipt
from bcos_explain.explainers.remarks import remark_lines
from bcos_explain.metrics.result import MetricResult


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
    reason: str = ""
    """Why it is shown."""

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


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: how often each class was taken for each other.

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
class Table:
    """A table of any values; it can be sorted by each of its columns.

    Raises:
        BcosError: a row with more or fewer cells than there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    """Cells: text, integers, floats, or None for an empty cell."""
    note: str = ""
    """A paragraph before the table."""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise BcosError(
                    f"row {number} of the table {self.title!r} must have {len(self.columns)} cells, got {len(row)}; "
                    "use None for an empty cell"
                )


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """One metric of each explainer, shown as box plots beside the means (or medians) and their intervals."""

    title: str
    results: Mapping[str, MetricResult]
    """Results by explainer, in the order shown. Explainers without a defined score are left out."""
    description: str = ""
    """A paragraph: what is measured, and what is good."""
    limits: tuple[float, float] | None = None
    """Ends of the axis; None for the range of the scores."""

    @property
    def chance(self) -> float | None:
        """Score of an explanation that says nothing, drawn as a line."""
        return next((result.chance for result in self.results.values()), None)

    @property
    def statistic(self) -> str:
        """What of the scores the table shows: the mean, or the median."""
        return next((result.statistic for result in self.results.values()), "mean")

    @property
    def higher_is_better(self) -> bool | None:
        """Whether higher values are better; None if neither is."""
        return next((result.higher_is_better for result in self.results.values()), None)

    @property
    def remarks(self) -> dict[str, list[str]]:
        """Remarks of explainers on their own maps, by explainer; shown below the table."""
        return {name: lines for name, result in self.results.items() if (lines := remark_lines(result.remarks))}


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows. Parts that are empty are left out."""

    title: str
    headline: Mapping[str, str] = field(default_factory=dict)
    """The most important numbers, shown in large print, by name: ``{"top-1": "78.2 %"}``."""
    summary: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Tables of labels and values, by heading: ``{"Model": {"name": "resnet18"}, ...}``."""
    curves: Sequence[Mapping[str, float | None]] = ()
    """
    For each epoch ``epoch`` and any of ``train_loss``, ``val_loss``, ``test_loss``, ``val_top1``, ``test_top1`` (a
    share or percentage) and ``lr``.
    """
    confusion: Confusion | None = None
    gallery: Sequence[GalleryItem] = ()
    """Shown by reason, then by class, each in the order in which they first appear."""
    gallery_note: str = ""
    """How the images were chosen."""
    neurons: Sequence[NeuronRow] = ()
    """Channels with the images that activate them most."""
    gridpg: Mapping[str, MetricResult] = field(default_factory=dict)
    """Results of the grid pointing game by explainer; a cluster of scores is a grid."""
    metrics: Sequence[MetricScores] = ()
    """Other metrics, shown as the grid pointing game is."""
    tables: Sequence[Table] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    """Explanations of words that the report uses."""
    notes: Sequence[str] = ()
    """Paragraphs at the end."""
