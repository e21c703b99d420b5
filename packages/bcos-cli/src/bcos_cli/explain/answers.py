"""From images in memory to maps and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcos_cli.explain.pictures import smoothing
from bcos_cli.explain.targets import Question, Wanted, as_indices
from bcos_cli.processes.group import default_device
from bcos_core import Explanation, explain
from bcos_explain.explainers import Explainer, Remark, attribute, collect_remarks
from bcos_explain.explainers.contract import without_rounding
from bcos_explain.explainers.memory import in_batches
from bcos_explain.explainers.remarks import pass_on, remarks_about
from bcos_explain.receipt import Receipt, receipts
from bcos_explain.render import explanation_parts
from bcos_models import TrainedModel

EXACT = "bcos"
"""The explainer whose W has a picture too."""


@dataclass(frozen=True)
class Answer:
    """One question answered by one method, in numbers."""

    question: Question
    method: str
    logit: float
    """Of the target; less that of the class it is compared with."""
    probability: float
    """Of the target."""
    contributions: float
    receipt: Receipt | None = None
    """Of the exact explanation."""
    remarks: tuple[Remark, ...] = ()
    """What the method said of its map."""


@dataclass
class Subject:
    """An image with its answers."""

    predicted: int
    confidence: float
    answers: list[Answer] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(repr=False, default_factory=dict)
    """``rgb`` (H, W, 3) in 8 bits, and of answer number i ``map.i`` (H, W); if it is exact also ``colours.i`` (H,
    W, 3) in 8 bits, ``strength.i`` (H, W), and ``weight.i`` (C, H, W) if that was asked for."""


@dataclass(frozen=True)
class Asker:
    """A network and the methods that explain it."""

    trained: TrainedModel
    explainers: Mapping[str, Explainer]
    keep_weight: bool = False

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) of 8-bit images (N, C, H, W)."""
        with torch.inference_mode():
            logits: Tensor = self.trained.model(self._encoded(images))
        return logits.float().clone()

    def answer(self, images: Tensor, wanted: Wanted | list[Question]) -> list[Subject]:
        """Explain 8-bit images (N, C, H, W).

        Where memory runs out, half of them at a time.

        Args:
            images: (N, C, H, W).
            wanted: what is asked of each by its own logits, or the same questions for all.
        """
        parts = in_batches(lambda part: self._answer(images[part], wanted), len(images))
        return [subject for part in parts for subject in part]

    def _encoded(self, images: Tensor) -> Tensor:
        return self.trained.encode(images.to(default_device()))

    def _answer(self, images: Tensor, wanted: Wanted | list[Question]) -> list[Subject]:
        logits = self.logits(images)
        questions = wanted.of(logits) if isinstance(wanted, Wanted) else [wanted] * len(images)
        targets, against = as_indices(questions, logits.device)
        subjects = self._subjects(images, logits, questions)
        x = self._encoded(images)
        for method, explainer in self.explainers.items():
            exact = _exactly(self.trained, x, targets, against) if method == EXACT else None
            with collect_remarks() as remarks:
                maps = _maps(explainer, self.trained, x, targets, against) if exact is None else exact.map
            papers = None if exact is None else receipts(exact, model=self.trained.model)
            maps = maps.float().cpu()
            for i, subject in enumerate(subjects):
                for t, question in enumerate(questions[i]):
                    receipt = None if papers is None else papers[i][t]
                    answer = self._number(question, method, logits[i], maps[i, t], receipt)
                    answer = replace(answer, remarks=tuple(dict.fromkeys(remarks_about(remarks, i, t))))
                    subject.arrays[f"map.{len(subject.answers)}"] = maps[i, t].numpy()
                    subject.answers.append(answer)
                    if exact is not None:
                        self._add_weight(subject, exact.input[i], exact.weight[i, t])
        return subjects

    def _subjects(self, images: Tensor, logits: Tensor, questions: list[list[Question]]) -> list[Subject]:
        confidences = self.trained.confidences(logits).amax(1).tolist()
        predicted = logits.argmax(1).tolist()
        rgb = images.permute(0, 2, 3, 1).cpu().numpy()
        rgb = np.broadcast_to(rgb, (*rgb.shape[:3], 3))
        return [Subject(predicted[i], confidences[i], arrays={"rgb": rgb[i]}) for i in range(len(questions))]

    def _number(self, question: Question, method: str, logits: Tensor, map: Tensor, receipt: Receipt | None) -> Answer:
        """An answer in numbers."""
        logit = float(logits[question.target])
        if question.against is not None:
            logit -= float(logits[question.against])
        probability = float(self.trained.confidences(logits[None])[0, question.target])
        return Answer(question, method, logit, probability, float(map.double().sum()), receipt)

    def _add_weight(self, subject: Subject, x: Tensor, weight: Tensor) -> None:
        """Add what the picture of the last answer's W is made of."""
        number = len(subject.answers) - 1
        colours, strength = explanation_parts(x, weight, smooth=smoothing(int(x.shape[-1])))
        arrays = subject.arrays
        arrays[f"colours.{number}"] = np.rint(colours * 255).astype(np.uint8)
        arrays[f"strength.{number}"] = strength.astype(np.float32)
        if self.keep_weight:
            arrays[f"weight.{number}"] = weight.float().cpu().numpy()


def _exactly(trained: TrainedModel, x: Tensor, targets: Tensor, against: Tensor) -> Explanation:
    """One forward pass for all targets and contrasts; ``W_A - W_B`` is that of the difference of logits."""
    if bool((against < 0).all()):
        return explain(trained.model, x, targets, probe=True)
    subtracted = (against >= 0).to(x.dtype)
    return explain(
        trained.model, x, lambda z: z.gather(1, targets) - z.gather(1, against.clamp_min(0)) * subtracted, probe=True
    )


def _maps(explainer: Explainer, trained: TrainedModel, x: Tensor, targets: Tensor, against: Tensor) -> Tensor:
    """Maps (N, T, H, W); for contrasts the difference of the maps of both classes, and what is said of either."""
    maps = attribute(explainer, trained.model, x, targets)
    if bool((against < 0).all()):
        return maps
    is_contrast = against >= 0
    with collect_remarks() as remarks:
        others = attribute(explainer, trained.model, x, against.clamp_min(0)) * is_contrast[..., None, None]
    pass_on([r for r in remarks if r.image is None or r.target is None or bool(is_contrast[r.image, r.target])])
    return without_rounding(maps - others, maps.abs() + others.abs())
