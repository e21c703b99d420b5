"""Classification scores of a network on a split: accuracy, loss, calibration, confusions."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import (
    BinaryCalibrationError,
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from bcos_cli.data.loader import Batches
from bcos_cli.data.stream import Place
from bcos_cli.evaluate.loop import run_network
from bcos_cli.evaluate.predictions import SplitPredictions
from bcos_cli.evaluate.samplers import Sampler
from bcos_models import TrainedModel

CALIBRATION_BINS = 15
_COLLAPSED = 1e-4
"""Spread of logits, as a share of their size, below which a network tells no images apart."""


@dataclass(frozen=True)
class Scores:
    """Classification scores on a split; :mod:`bcos_cli.evaluate.metrics` describes each."""

    samples: int
    top1: float
    top5: float
    """Top-5, of all classes if there are fewer. Where images have several labels, one of them counts, for top-1 too."""
    loss: float
    calibration_error: float
    """Calibration error of the predicted class (Guo et al., 2017); of every class where images have several labels."""
    confusion: list[list[int]]
    """Rows: true class; columns: predicted class. Empty where images have several labels."""
    images_per_second: float
    mean_average_precision: float | None = None
    f1: float | None = None
    """A class counts as predicted with a probability above 0.5."""
    unread: int = 0
    """Images that could not be read and were left out."""
    logit_spread: float | None = None
    """Largest difference of a class's logit between two images, as a share of the largest logit."""

    @property
    def collapse(self) -> str | None:
        """What to say of a network that gives every image the same logits; None of another."""
        if self.logit_spread is None or not self.logit_spread < _COLLAPSED or self.samples < 2:
            return None
        return (
            f"every image gets the same logits, up to {self.logit_spread:.0e} of them: the network tells no images "
            "apart. It is untrained, or has collapsed; try a lower optimizer.lr, more schedule.warmup_steps, smaller "
            "batches or more images"
        )

    @property
    def accuracy(self) -> float:
        """What makes one network better than another: top-1, or, with several labels, mean average precision."""
        return self.top1 if self.mean_average_precision is None else self.mean_average_precision

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the scores that are shares of images."""
        return {name: wilson_interval(getattr(self, name), self.samples) for name in ("top1", "top5")}


def wilson_interval(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share p of n images; (NaN, NaN) of none.

    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with z the quantile ``(1 + level) / 2`` of the normal
    distribution. It says how far the share of other images of the same kind may be, not of those that cannot be read.

    Source: Wilson, Journal of the American Statistical Association 22, 1927.
    """
    if not count:
        return math.nan, math.nan
    z = NormalDist().inv_cdf((1 + level) / 2)
    spread = z * math.sqrt(max(share * (1 - share), 0.0) / count + z**2 / (4 * count**2))
    low, high = ((share + z**2 / (2 * count) + sign * spread) / (1 + z**2 / count) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def classify(
    trained: TrainedModel,
    model: nn.Module,
    batches: Batches,
    loss: nn.Module,
    *,
    device: torch.device,
    samplers: Sequence[Sampler] = (),
    predictions: SplitPredictions | None = None,
    **options: Any,
) -> Scores:
    """Score `model` on all samples of `batches`, each counted once over all processes.

    The `samplers` get every image; afterwards each has what all processes took, and so have the `predictions`. The
    other arguments and the errors are those of :func:`bcos_cli.evaluate.loop.run_network`.
    """
    from accelerate.utils import gather_object

    loss = loss.to(device)
    totals = _Totals(len(trained.classes), batches.stream.labelling.multi_label, device)

    def update(images: Tensor, labels: Tensor, places: Any, logits: Tensor) -> None:
        probabilities = trained.confidences(logits)
        totals.update(logits, labels, probabilities, loss(logits.float(), labels))
        predicted = logits.argmax(1)  # sigmoids of large logits may be equal
        confidence = probabilities.gather(1, predicted[:, None])[:, 0]
        if predictions is not None:
            predictions.update(labels, predicted, confidence, places)
        positions: Any = places.position if isinstance(places, Place) else places
        if labels.ndim == 2:  # what was predicted, where it is among the labels
            found = labels.gather(1, predicted[:, None])[:, 0] > 0
            labels = torch.where(found, predicted, labels.argmax(1))
        for sampler in samplers:
            sampler.update(images, labels, confidence, predicted, positions)

    count = run_network(trained, model, batches, update, device=device, **options)
    values = totals.compute()
    for sampler in (*samplers, *([] if predictions is None else [predictions])):
        for state in gather_object([sampler.state()]):
            sampler.merge(state)
    return Scores(samples=count.read, unread=count.unread, images_per_second=count.per_second, **values)


class _Totals:
    """Sums over batches, which are synchronised over the processes when they are read."""

    def __init__(self, num_classes: int, multi_label: bool, device: torch.device) -> None:
        self.top = {"top1": 1, "top5": min(5, num_classes)}
        self.means = {name: MeanMetric(nan_strategy="disable").to(device) for name in (*self.top, "loss")}
        self.calibration = _with_state(BinaryCalibrationError(CALIBRATION_BINS), device)
        self.confusion = None if multi_label else MulticlassConfusionMatrix(num_classes).to(device)
        self.spread = _LogitSpread(num_classes).to(device)
        self.of_labels: dict[str, Metric] = {}
        if multi_label:
            self.of_labels = {
                "mean_average_precision": _with_state(MultilabelAveragePrecision(num_classes), device, num_classes),
                "f1": MultilabelF1Score(num_classes, average="micro").to(device),
            }

    def update(self, logits: Tensor, labels: Tensor, probabilities: Tensor, loss: Tensor) -> None:
        self.means["loss"].update(loss.expand(len(labels)))  # NaN has to stay; then torchmetrics ignores weights
        self.spread.update(logits)
        truth = labels.int() if labels.ndim == 2 else nn.functional.one_hot(labels, logits.shape[1])
        for name, k in self.top.items():
            largest = logits.argmax(1, keepdim=True) if k == 1 else logits.topk(k).indices
            self.means[name].update(truth.gather(1, largest).amax(1).float())
        if self.confusion is not None:
            self.confusion.update(logits.float(), labels)
            confidence, predicted = probabilities.max(1)
            self.calibration.update(confidence, (predicted == labels).int())
        else:
            self.calibration.update(probabilities.flatten(), truth.flatten())
        for metric in self.of_labels.values():
            metric.update(probabilities, truth)

    def compute(self) -> dict[str, Any]:
        numbers = {**self.means, "calibration_error": self.calibration, "logit_spread": self.spread, **self.of_labels}
        with warnings.catch_warnings():  # a process without images, while others have some
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
            confusion = [] if self.confusion is None else self.confusion.compute().tolist()
            return {"confusion": confusion} | {name: float(metric.compute()) for name, metric in numbers.items()}


class _LogitSpread(Metric):
    """Largest difference of a class's logit between two images, as a share of the largest logit."""

    low: Tensor
    high: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("low", torch.full((num_classes,), torch.inf), dist_reduce_fx="min")
        self.add_state("high", torch.full((num_classes,), -torch.inf), dist_reduce_fx="max")

    def update(self, logits: Tensor) -> None:
        """Add the logits (N, K) of a batch."""
        if len(logits):
            self.low = torch.minimum(self.low, logits.float().amin(0))
            self.high = torch.maximum(self.high, logits.float().amax(0))

    def compute(self) -> Tensor:
        """Compute it; NaN of no images, and of logits that are."""
        return (self.high - self.low).amax() / torch.maximum(self.low.abs(), self.high.abs()).amax()


def _with_state(metric: Metric, device: torch.device, *shape: int) -> Metric:
    """Update a metric with no images; else a process without images would hand on tensors of another type and shape."""
    nothing = torch.zeros(0, *shape, device=device)
    metric.to(device).update(nothing, nothing.int())
    return metric
