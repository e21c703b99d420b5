"""Scoring a network on a split, on every process that was started."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import (
    BinaryCalibrationError,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from bcos_cli import console
from bcos_cli.data.loader import Batches
from bcos_cli.evaluate.samplers import Collector
from bcos_cli.explain.loaded_model import TrainedModel
from bcos_cli.processes.group import largest, total
from bcos_cli.train.nonfinite_loss import check_finite
from bcos_core.errors import BcosError

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Classification scores on a split."""

    samples: int
    top1: float
    """Share of images whose class has the largest logit."""
    top5: float
    """Share of images whose class is among the five largest logits (or all, if there are fewer classes)."""
    loss: float
    calibration_error: float
    """Expected calibration error of the predicted class's probability, 15 bins (Guo et al., 2017)."""
    confusion: list[list[int]]
    """Rows: true class; columns: predicted class. Empty where images have several labels."""
    images_per_second: float
    mean_average_precision: float | None = None
    """Mean over classes, where images have several labels; top-1 and top-5 then say whether one of them is among the
    largest logits."""
    f1: float | None = None
    """Of all labels together, those with a probability above 0.5 being predicted."""
    unread: int = 0
    """Images that could not be read and were left out, where that is wanted."""

    @property
    def accuracy(self) -> float:
        """What makes one network better than another: top-1, or, with several labels, mean average precision."""
        return self.top1 if self.mean_average_precision is None else self.mean_average_precision


class Scorer(Protocol):
    """Accumulates scores over batches and processes."""

    def update(self, logits: Tensor, labels: Tensor, probabilities: Tensor, loss: Tensor) -> None:
        """Take a batch into account."""

    def compute(self, seconds: float) -> Scores:
        """Scores of all batches of all processes."""


def _begun(metric: Metric, device: torch.device, *shape: int) -> Metric:
    """A metric that has seen a batch of no images.

    One that has seen none would hand others tensors of another type and shape, in a process without images.
    """
    nothing = torch.zeros(0, *shape, device=device)
    metric.to(device).update(nothing, nothing.int())
    return metric


class _Classification:
    """Accumulates the scores; sums are synchronised over the processes when they are read."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        top5 = min(5, num_classes)
        self.metrics = MetricCollection(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top5": MulticlassAccuracy(num_classes, top_k=top5, average="micro"),
                "confusion": MulticlassConfusionMatrix(num_classes),
            },
            compute_groups=False,
        ).to(device)
        self.calibration = _begun(BinaryCalibrationError(CALIBRATION_BINS), device)
        self.loss = SumMetric(nan_strategy="disable").to(device)  # NaN stays; MeanMetric would then ignore weights

    def update(self, logits: Tensor, labels: Tensor, probabilities: Tensor, loss: Tensor) -> None:
        confidence, predicted = probabilities.max(1)
        self.metrics.update(logits.float(), labels)
        self.calibration.update(confidence, (predicted == labels).int())
        self.loss.update(loss * len(labels))

    def compute(self, seconds: float) -> Scores:
        values = self.metrics.compute()
        confusion: list[list[int]] = values["confusion"].tolist()
        samples = sum(map(sum, confusion))
        return Scores(
            samples=samples,
            top1=float(values["top1"]),
            top5=float(values["top5"]),
            loss=float(self.loss.compute()) / samples,
            calibration_error=float(self.calibration.compute()),
            confusion=confusion,
            images_per_second=samples / seconds,
        )


class _SeveralLabels:
    """The same where an image has any number of labels."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.average_precision = _begun(MultilabelAveragePrecision(num_classes), device, num_classes)
        self.f1 = MultilabelF1Score(num_classes, average="micro").to(device)
        self.calibration = _begun(BinaryCalibrationError(CALIBRATION_BINS), device)
        self.loss = SumMetric(nan_strategy="disable").to(device)  # NaN stays; MeanMetric would then ignore weights
        self.samples = SumMetric().to(device)
        self.hits = {k: MeanMetric().to(device) for k in (1, min(5, num_classes))}

    def update(self, logits: Tensor, labels: Tensor, probabilities: Tensor, loss: Tensor) -> None:
        wanted = labels.int()
        self.average_precision.update(probabilities, wanted)
        self.f1.update(probabilities, wanted)
        self.calibration.update(probabilities.flatten(), wanted.flatten())
        self.loss.update(loss * len(labels))
        self.samples.update(len(labels))
        for k, mean in self.hits.items():
            mean.update(wanted.gather(1, logits.topk(k).indices).amax(1).float())

    def compute(self, seconds: float) -> Scores:
        top1, top5 = (float(self.hits[k].compute()) for k in (1, max(self.hits)))
        samples = int(self.samples.compute())
        return Scores(
            samples=samples,
            top1=top1,
            top5=top5,
            loss=float(self.loss.compute()) / samples,
            calibration_error=float(self.calibration.compute()),
            confusion=[],
            images_per_second=samples / seconds,
            mean_average_precision=float(self.average_precision.compute()),
            f1=float(self.f1.compute()),
        )


def read_of_all(batches: Batches, seen: int, device: torch.device) -> tuple[int, int]:
    """Count the images that all processes have `seen`, and those that could not be read.

    Raises:
        BcosError: none could.
    """
    read, unread = total(seen, device), total(batches.stream.skipped, device)
    if read == 0:
        raise BcosError(f"none of {unread:,} images could be read; check them with: bcos shards verify")
    return read, unread


def refuse_odd_outputs(odd: int, read: int, device: torch.device) -> None:
    """Refuse to score a network that has no finite answer to some images; all processes must ask.

    Args:
        odd: images of this process whose outputs are not all finite.
        read: images of all processes.
        device: of this process.

    Raises:
        BcosError: there are such images.
    """
    if count := total(odd, device):
        raise BcosError(
            f"the outputs of the network are infinite or not a number for {count:,} of {read:,} images, though its "
            "weights are finite: there is nothing to score; train it again with a lower optimizer.lr or in float32"
        )


def evaluate(
    trained: TrainedModel,
    model: nn.Module,
    batches: Batches,
    loss: nn.Module,
    *,
    device: torch.device,
    collectors: Sequence[Collector] = (),
    show_progress: bool = True,
    label: str = "evaluating",
    together: bool = False,
) -> Scores:
    """Score `model` on all samples of `batches`, each counted once over all processes.

    Args:
        trained: says what the input and the logits of the network are.
        model: the network; not wrapped for distributed training, since processes may have different numbers
            of batches.
        batches: of this process.
        loss: averaged over samples.
        device: where to compute.
        collectors: see every image; afterwards each knows what those of all processes saw.
        show_progress: show a progress bar.
        label: of the progress bar.
        together: pass as many batches through the network in every process, because each holds a part of it.

    Raises:
        BcosError: an image that cannot be read, or, where such are left out, none that can; weights or outputs that are
            not finite, whose accuracy would mean nothing.
    """
    from accelerate.utils import gather_object

    check_finite(model, agree=lambda count: total(count, device))
    was_training = model.training
    model.eval()
    loss = loss.to(device)
    most = largest(len(batches), device) if together else 0
    done = seen = 0
    make = _SeveralLabels if batches.stream.labelling.multi_label else _Classification
    scorer: Scorer = make(len(trained.classes), device)
    odd = torch.zeros((), dtype=torch.int64, device=device)
    start = time.perf_counter()
    dtype = next((p.dtype for p in model.parameters() if p.dtype == torch.float64), torch.float32)
    x = trained.encode(torch.zeros(1, trained.input.channels, trained.input.size, trained.input.size, device=device))
    no_gradient = torch.no_grad if together else torch.inference_mode  # FSDP keeps what the first pass has made
    with no_gradient(), console.counted(label, len(batches), show_progress) as counter:
        for images, labels, positions in batches.epoch(0):
            x = trained.encode(images.to(device, non_blocking=True))
            labels = labels.to(device, non_blocking=True)
            logits = model(x.to(dtype))
            odd += (~torch.isfinite(logits)).any(1).sum()
            logits = logits.nan_to_num()  # all processes refuse them together, in the end
            probabilities = trained.confidences(logits)
            scorer.update(logits, labels, probabilities, loss(logits.float(), labels))
            confidence, predicted = probabilities.max(1)
            if labels.ndim == 2:  # what was predicted, where it is among the labels
                found = labels.gather(1, predicted[:, None])[:, 0] > 0
                labels = torch.where(found, predicted, labels.argmax(1))
            for collector in collectors:
                collector.update(images, labels, confidence, predicted, positions)
            done += 1
            seen += len(labels)
            counter.advance(images=len(labels))
        for _ in range(most - done):
            model(x.to(dtype))
    model.train(was_training)
    read, unread = read_of_all(batches, seen, device)
    refuse_odd_outputs(int(odd), read, device)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():  # of a process that has no images, while others do
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        scores = replace(scorer.compute(seconds), unread=unread)
    for collector in collectors:
        for state in gather_object([collector.state()]):
            collector.merge(state)
    return scores
