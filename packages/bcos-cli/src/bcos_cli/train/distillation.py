"""Distillation: a teacher whose outputs a network learns beside, or instead of, the labels."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from bcos_cli.config import Distillation
from bcos_cli.config.trust import trusts_runs
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.loader import Batches
from bcos_cli.evaluate.loop import run_network
from bcos_cli.explain.inference import blank_input
from bcos_core.errors import BcosError
from bcos_models import TrainedModel, load_trained


class Teacher:
    """A trained network, and the loss of a student whose outputs differ from its own.

    Raises:
        BcosError: no such network, or one of other channels or classes.

    ``logits``: where probabilities of both are sigmoids, the binary cross-entropy of each class, at a temperature T,
    times T²; where those of one are a softmax, the Kullback-Leibler divergence of the student's softmax from the
    teacher's probabilities, at a temperature T, times T². A softmax leaves the level of all logits open, and sigmoids
    do not: a student of sigmoids then learns the teacher's probabilities by binary cross-entropy too.
    ``embedding``: ``1 - cos(student, teacher)`` of the outputs.

    Source: Hinton, Vinyals, Dean, arXiv 1503.02531.
    """

    def __init__(self, options: Distillation, student: TrainedModel, device: torch.device) -> None:
        self.options = options
        self.student = student
        self.trained = load_trained(options.teacher, trust=trusts_runs())
        if self.trained.input.channels != student.input.channels:
            raise BcosError(
                f"the teacher {options.teacher!r} takes images of {self.trained.input.channels} channels, "
                f"the network of {student.input.channels}; choose another teacher"
            )
        self.columns = self.trained.align_classes(student.classes, "data.path") if options.kind == "logits" else None
        """The teacher's output for each of the student's classes."""
        self.trained.model.to(device).to(memory_format=torch.channels_last)  # in which convolutions are faster
        self.trained.model.eval().requires_grad_(False)

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> Tensor:
        """Return the teacher's output for images in [0, 1], (N, C, H, W), brought to its size."""
        pixels, size = pixels.float(), self.trained.input.size
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        x = self.trained.encode(pixels).contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.trained.model(x).float()
        return outputs if self.columns is None else outputs[:, self.columns]

    def loss(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """Mean loss of the student's outputs (N, K) beside those of the teacher."""
        outputs = outputs.float()
        if self.options.kind == "embedding":
            return (1 - F.cosine_similarity(outputs, taught)).mean()
        t = self.options.temperature
        targets = self.trained.confidences(taught / t)
        sigmoids = self.student.probabilities == "sigmoid"
        if sigmoids and self.trained.probabilities == "sigmoid":
            return F.binary_cross_entropy_with_logits(outputs / t, targets) * t**2
        targets = targets / targets.sum(1, keepdim=True)
        # Binary cross-entropy alone shrinks the logits of a converted network to nothing within twenty steps
        loss = F.kl_div((outputs / t).log_softmax(1), targets, reduction="batchmean") * t**2
        return loss + F.binary_cross_entropy_with_logits(outputs, taught.softmax(1)) if sigmoids else loss


def output_names(options: Distillation | None, index: ShardIndex) -> list[str]:
    """Names of the student's outputs: the classes of the data, or numbers where it learns a teacher's embedding."""
    if options is not None and options.kind == "embedding":
        return [str(k) for k in range(embedding_size(options.teacher))]
    return index.classes


def embedding_size(teacher: str) -> int:
    """Count the outputs of a teacher of embeddings."""
    trained = load_trained(teacher, trust=trusts_runs())
    with torch.inference_mode():
        outputs: Tensor = trained.model.eval()(blank_input(trained, torch.device("cpu")))
    if outputs.ndim != 2:
        raise BcosError(f"the teacher {teacher!r} must give one vector an image, got {tuple(outputs.shape)}")
    return outputs.shape[1]


@dataclass(frozen=True)
class Agreement:
    """How much a network's outputs are like its teacher's."""

    samples: int
    cosine: float
    """Mean cosine of the outputs."""
    unread: int = 0
    """Images that could not be read and were left out."""

    @property
    def loss(self) -> float:
        """What is trained: ``1 - cosine``."""
        return 1 - self.cosine

    @property
    def accuracy(self) -> float:
        """What makes one network better than another."""
        return self.cosine


def agreement(
    teacher: Teacher, network: nn.Module, batches: Batches, *, device: torch.device, **options: Any
) -> Agreement:
    """Compare a network with its teacher on all images of `batches`, over all processes.

    Options and errors as of :func:`bcos_cli.evaluate.loop.run_network`.
    """
    cosine = MeanMetric().to(device)

    def update(images: Tensor, _labels: Tensor, _positions: Tensor, outputs: Tensor) -> None:
        answer = teacher.outputs(images.to(device).float() / 255)
        cosine.update(F.cosine_similarity(outputs.float(), answer))

    count = run_network(teacher.student, network, batches, update, device=device, **options)
    return Agreement(count.read, float(cosine.compute()), count.unread)


class Objective(nn.Module):
    """The loss that is minimised: that of the labels, that of a teacher, or a weighted sum of both."""

    def __init__(self, labels: nn.Module, teacher: Teacher | None) -> None:
        super().__init__()
        self.labels = labels
        self.teacher = teacher

    def forward(self, outputs: Tensor, targets: Tensor, pixels: Tensor) -> Tensor:
        """Return the loss of outputs (N, K) for targets and images in [0, 1]."""
        if self.teacher is None:
            loss: Tensor = self.labels(outputs, targets)
            return loss
        weight = self.teacher.options.weight
        taught = self.teacher.loss(outputs, self.teacher.outputs(pixels))
        if weight == 1:
            return taught
        of_labels: Tensor = self.labels(outputs, targets)
        return weight * taught + (1 - weight) * of_labels
