"""Scoring a network on a split, on every process that was started."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy, MulticlassConfusionMatrix

from bcos_cli import console
from bcos_cli.collecting import Collector
from bcos_cli.data.loader import Batches
from bcos_cli.trained import TrainedModel

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
    """Rows: true class; columns: predicted class."""
    images_per_second: float


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
        self.calibration = BinaryCalibrationError(CALIBRATION_BINS).to(device)
        self.loss = MeanMetric().to(device)

    def update(self, logits: Tensor, labels: Tensor, probabilities: Tensor, loss: Tensor) -> None:
        confidence, predicted = probabilities.max(1)
        self.metrics.update(logits.float(), labels)
        self.calibration.update(confidence, (predicted == labels).int())
        self.loss.update(loss, weight=len(labels))

    def compute(self, seconds: float) -> Scores:
        values = self.metrics.compute()
        confusion: list[list[int]] = values["confusion"].tolist()
        samples = sum(map(sum, confusion))
        return Scores(
            samples=samples,
            top1=float(values["top1"]),
            top5=float(values["top5"]),
            loss=float(self.loss.compute()),
            calibration_error=float(self.calibration.compute()),
            confusion=confusion,
            images_per_second=samples / seconds,
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
    """
    from accelerate.utils import gather_object

    was_training = model.training
    model.eval()
    classification = _Classification(len(trained.classes), device)
    start = time.perf_counter()
    with torch.inference_mode(), console.counted("evaluating", len(batches), show_progress) as counter:
        for images, labels, positions in batches.epoch(0):
            x = trained.encode(images.to(device, non_blocking=True))
            labels = labels.to(device, non_blocking=True)
            logits = model(x)
            probabilities = trained.confidences(logits)
            classification.update(logits, labels, probabilities, loss(logits.float(), labels))
            confidence, predicted = probabilities.max(1)
            for collector in collectors:
                collector.update(images, labels, confidence, predicted, positions)
            counter.advance(images=len(labels))
    model.train(was_training)
    scores = classification.compute(time.perf_counter() - start)
    for collector in collectors:
        for state in gather_object([collector.state()]):
            collector.merge(state)
    return scores
