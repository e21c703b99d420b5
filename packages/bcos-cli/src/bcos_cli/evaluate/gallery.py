"""The explained images of a report."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcos_cli.config import Recipe
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import Reading, labels_of, make_batches
from bcos_cli.evaluate.result import Evaluation
from bcos_cli.explain.batch import explain_images
from bcos_core.errors import BcosError
from bcos_explain import ExplainedImage
from bcos_explain.explainers import Remark, remark_lines
from bcos_explain.report import GalleryItem
from bcos_models import TrainedModel

BATCH = 32
"""Images explained at a time: other explainers need more memory than an evaluation."""


def gallery(
    trained: TrainedModel, evaluation: Evaluation, recipe: Recipe, *, note: Callable[[str], None] = lambda _: None
) -> Iterator[GalleryItem]:
    """Explain the first images of each class in the split, whether they are classified correctly or not.

    The recipe says how many images, and which explainers besides ``bcos``. `note` is called with a line about each
    explainer that cannot explain this network, and with the remarks of the others on their maps.
    """
    config = recipe.evaluation
    reading = Reading.of(recipe.data)
    chosen = _first_of_each_class(evaluation, trained, reading, config.gallery_per_class, config.gallery_classes)
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
            yield _item(image, labels, f"{evaluation.split} #{position}", evaluation.classes)
    for name, found in remarks.items():
        for line in remark_lines(found):
            note(f"explanations by {name}: {line}")


def _item(image: ExplainedImage, labels: list[int], name: str, classes: Sequence[str]) -> GalleryItem:
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
    )


def _first_of_each_class(
    evaluation: Evaluation, trained: TrainedModel, reading: Reading, per_class: int, classes: int
) -> list[tuple[Tensor, list[int], int]]:
    """Return (8-bit image, labels, position in the split) of the first images of the first classes, by class."""
    if per_class == 0:
        return []
    index = load_index(evaluation.data).aligned(trained, evaluation.data)
    batches = make_batches(evaluation.data, index, evaluation.split, trained.input, batch_size=64, reading=reading)
    first_classes = sorted(index.numbers)[:classes]
    found: dict[int, list[tuple[Tensor, list[int], int]]] = {label: [] for label in first_classes}
    for images, labels, positions in batches.epoch(0):
        for image, label, position in zip(images, labels, positions.tolist(), strict=True):
            several = labels_of(label)
            first = next((k for k in several if k in found and len(found[k]) < per_class), None)
            if first is not None:
                found[first].append((image, several, position))
        if all(len(images) == per_class for images in found.values()):
            break
    return [entry for entries in found.values() for entry in entries]
