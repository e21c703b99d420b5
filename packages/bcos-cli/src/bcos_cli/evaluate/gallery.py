"""The explained images of a report."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcos_cli.config import Recipe
from bcos_cli.config.train import Evaluation as EvaluationConfig
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import images_at
from bcos_cli.data.reading import Reading
from bcos_cli.evaluate.result import Evaluation
from bcos_cli.explain.batch import explain_images
from bcos_core.errors import BcosError
from bcos_explain import ExplainedImage
from bcos_explain.explainers import Remark, remark_lines
from bcos_explain.report import GalleryItem
from bcos_models import TrainedModel

BATCH = 32
"""Images explained at a time: other explainers need more memory than an evaluation."""
WRONG, UNCERTAIN, TYPICAL = "wrong prediction", "least certain", "typical of its class"


@dataclass(frozen=True)
class Choice:
    """The images of a split that a report explains."""

    reasons: dict[int, str]
    """Why an image is among them, by its position."""
    text: str
    """The same for all of them, in a sentence."""

    @classmethod
    def of(cls, evaluation: Evaluation, config: EvaluationConfig) -> "Choice":
        """Choose wrong predictions, the least certain ones, and some that are typical of their class.

        Typical are those right ones whose confidence is next to the median of their class.
        """
        if config.gallery_per_class == 0 or evaluation.predictions is None:
            return cls({}, "")
        rows = evaluation.predictions.rows()
        by_confidence = rows[rows[:, 3].argsort(stable=True)]
        wrong = by_confidence[by_confidence[:, 1] != by_confidence[:, 2]].flip(0)
        reasons = dict.fromkeys(_positions(wrong[: config.gallery_errors]), WRONG)
        others = [p for p in _positions(by_confidence) if p not in reasons]
        reasons |= dict.fromkeys(others[: config.gallery_uncertain], UNCERTAIN)
        count = len(evaluation.classes)
        for label in range(min(config.gallery_classes, count)):
            of_class = by_confidence[by_confidence[:, 1] == label]
            right = of_class[of_class[:, 2] == label]
            left = [p for p in _positions(right if len(right) else of_class) if p not in reasons]
            start = max(0, len(left) - config.gallery_per_class) // 2
            reasons |= dict.fromkeys(left[start : start + config.gallery_per_class], TYPICAL)
        most = config.gallery_errors
        errors = f"The {most} most confident of {len(wrong):,} wrong predictions are"
        if len(wrong) <= most:
            errors = f"All {len(wrong)} wrong predictions are" if len(wrong) else "No prediction is wrong; explained"
        of_classes = f"the first {config.gallery_classes} of {count:,}" if count > config.gallery_classes else "all"
        text = (
            f"{errors} here, with the {list(reasons.values()).count(UNCERTAIN)} images that the network is least "
            f"certain of besides, and up to {config.gallery_per_class} typical ones of {of_classes} classes: predicted "
            "rightly, with a confidence next to the median of their class."
        )
        return cls(reasons, text)


def _positions(rows: Tensor) -> list[int]:
    return [int(position) for position in rows[:, 0].tolist()]


def gallery(
    choice: Choice,
    trained: TrainedModel,
    evaluation: Evaluation,
    recipe: Recipe,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[GalleryItem]:
    """Explain the chosen images, by the reason for which they were chosen, and then by class.

    The recipe says which explainers are shown besides ``bcos``. `note` is called with a line about each explainer that
    cannot explain this network, and with the remarks of the others on their maps.
    """
    config = recipe.evaluation
    if not choice.reasons:
        return
    split = evaluation.split
    index = load_index(evaluation.data).aligned(trained, evaluation.data, split)
    reading = Reading.of(recipe.data)
    images_and_labels = images_at(evaluation.data, index, split, trained.input, set(choice.reasons), reading)
    chosen = [(*images_and_labels[p], p) for p in choice.reasons if p in images_and_labels]
    methods = list(dict.fromkeys(["bcos", *config.explainers]))

    def leave_out(name: str, reason: BcosError) -> None:
        if name == methods[0]:
            raise reason
        methods.remove(name)
        note(f"{name} is not among the explanations: {reason}")

    size = min(config.batch_size, BATCH)
    remarks: dict[str, list[Remark]] = {}
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        images = torch.stack([image for image, _, _ in part])
        options: dict[str, Any] = {"probe": True, "keep_weight": False, "colours": True, "on_refusal": leave_out}
        explained = explain_images(trained, images, None, tuple(methods), **options)
        for image, (_, labels, position) in zip(explained, part, strict=True):
            for explanation in image.explanations[1:]:
                remarks.setdefault(explanation.method, []).extend(explanation.remarks)
            name = f"{evaluation.split} #{position}"
            yield _item(image, labels, name, evaluation.classes, choice.reasons[position])
    for name, found in remarks.items():
        for line in remark_lines(found):
            note(f"explanations by {name}: {line}")


def _item(image: ExplainedImage, labels: list[int], name: str, classes: Sequence[str], reason: str) -> GalleryItem:
    own, *others = image.explanations
    assert own.picture is not None
    assert own.receipt is not None
    names = [classes[label] for label in labels]
    return GalleryItem(
        input=image.image / np.float32(255),
        explanation=own.picture.rgba(own.picture.own_scale),
        map=own.map,
        true_class=classes[image.predicted] if image.predicted in labels else ", ".join(names) or "none",
        predicted_class=classes[image.predicted],
        confidence=image.confidence,
        receipt=own.receipt,
        baselines={e.method: e.map for e in others},
        name=name + (f": {', '.join(names)}" if len(names) > 1 else ""),
        reason=reason,
    )
