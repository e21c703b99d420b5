"""Scoring a network on a split, on every process that was started."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy, MulticlassConfusionMatrix

from bcos_cli import console
from bcos_cli.data.loader import Batches
from bcos_cli.trained import TrainedModel

if TYPE_CHECKING:
    from bcos_explain.metrics.confident import ConfidentImages

CALIBRATION_BINS = 15
MIN_CONFIDENCE = 0.5
"""Images for the pointing game are classified correctly with more than this probability."""


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


@dataclass
class Evaluated:
    """Scores, and the images that metrics of explanations work on."""

    scores: Scores
    confident: "ConfidentImages | None"


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
    confident_per_class: int = 0,
    show_progress: bool = True,
) -> Evaluated:
    """Score `model` on all samples of `batches`, each counted once over all processes.

    Args:
        trained: says what the input and the logits of the network are.
        model: the network; not wrapped for distributed training, since processes may have different numbers
            of batches.
        batches: of this process.
        loss: averaged over samples.
        device: where to compute.
        confident_per_class: how many of the most confident correctly classified images of each class to keep.
        show_progress: show a progress bar.
    """
    from accelerate.utils import gather_object

    was_training = model.training
    model.eval()
    classification = _Classification(len(trained.classes), device)
    confident = _confident_images(confident_per_class)
    start = time.perf_counter()
    with torch.inference_mode(), console.counted("evaluating", len(batches), show_progress) as counter:
        for images, labels, positions in batches.epoch(0):
            x = trained.encode(images.to(device, non_blocking=True))
            labels = labels.to(device, non_blocking=True)
            logits = model(x)
            probabilities = trained.confidences(logits)
            classification.update(logits, labels, probabilities, loss(logits.float(), labels))
            if confident is not None:
                confidence, predicted = probabilities.max(1)
                confident.update(images, labels, confidence, predicted, positions)
            counter.advance(images=len(labels))
    model.train(was_training)
    scores = classification.compute(time.perf_counter() - start)
    if confident is not None:
        for state in gather_object([confident.state()]):
            confident.merge(state)
    return Evaluated(scores, confident)


def _confident_images(per_class: int) -> "ConfidentImages | None":
    if not per_class:
        return None
    from bcos_explain.metrics.confident import ConfidentImages

    return ConfidentImages(per_class, min_confidence=MIN_CONFIDENCE)
