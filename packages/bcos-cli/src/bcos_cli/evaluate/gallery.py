"""The explained images of a report."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bcos_cli.config import Recipe
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import Reading, labels_of, make_batches
from bcos_cli.evaluate.result import Evaluation
from bcos_cli.explain.pictures import as_floats, smoothing
from bcos_cli.processes.group import process_state
from bcos_core import explain
from bcos_core.errors import BcosError
from bcos_core.receipt import receipts
from bcos_explain import explanation_image, get_explainer
from bcos_explain.explainers import Remark, attribute, collect_remarks, remark_lines
from bcos_explain.report import GalleryItem
from bcos_models import TrainedModel

EXACT = "bcos"
BATCH = 32
"""Images explained at a time: other explainers need more memory than an evaluation."""


def gallery(
    trained: TrainedModel,
    evaluation: Evaluation,
    recipe: Recipe,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[GalleryItem]:
    """Explain the first images of each class in the split: not chosen, right or wrong.

    Args:
        trained: the network.
        evaluation: of the network, says where the images are.
        recipe: how many images, and which explainers besides the exact one.
        note: told about each explainer that cannot explain this network, which is no reason to have no report, and
            what the others say of their maps.
    """
    config = recipe.evaluation
    reading = Reading.of(recipe.data)
    chosen = _first_of_each_class(evaluation, trained, reading, config.gallery_per_class, config.gallery_classes)
    baselines = {name: get_explainer(name) for name in config.explainers if name != EXACT}
    size = min(config.batch_size, BATCH)
    said: dict[str, list[Remark]] = {}
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        x = trained.encode(torch.stack([image for image, _, _ in part]).to(process_state().device))
        explanation = explain(trained.model, x, probe=True)
        checked = receipts(explanation, model=trained.model)
        probabilities = trained.confidences(explanation.logits)
        maps = _baseline_maps(trained, x, explanation.target, baselines, note, said)
        for i, (image, labels, position) in enumerate(part):
            k = int(explanation.target[i])
            names = [evaluation.classes[label] for label in labels]
            yield GalleryItem(
                input=as_floats(image.permute(1, 2, 0).numpy()),
                explanation=explanation_image(x[i], explanation.weight[i], smooth=smoothing(x.shape[-1])),
                map=explanation.map[i].cpu().numpy(),
                true_class=evaluation.classes[k] if k in labels else ", ".join(names) or "none",
                predicted_class=evaluation.classes[k],
                confidence=float(probabilities[i, k]),
                receipt=checked[i][0],
                baselines={name: batch[i].float().cpu().numpy() for name, batch in maps.items()},
                name=f"{evaluation.split} #{position}" + (f": {', '.join(names)}" if len(names) > 1 else ""),
            )
    for name, remarks in said.items():
        for line in remark_lines(remarks):
            note(f"explanations by {name}: {line}")


def _baseline_maps(
    trained: TrainedModel,
    x: Tensor,
    target: Tensor,
    baselines: dict[str, Any],
    note: Callable[[str], None],
    said: dict[str, list[Remark]],
) -> dict[str, Tensor]:
    """(N, H, W) of each explainer; one that cannot explain the network is dropped from `baselines`.

    What they say of their maps is added to `said`.
    """
    maps = {}
    for name, explainer in list(baselines.items()):
        try:
            with collect_remarks() as remarks:
                maps[name] = attribute(explainer, trained.model, x, target)
            said.setdefault(name, []).extend(remarks)
        except BcosError as reason:
            del baselines[name]
            note(f"{name} is not among the explanations: {reason}")
    return maps


def _first_of_each_class(
    evaluation: Evaluation, trained: TrainedModel, reading: Reading, per_class: int, classes: int
) -> list[tuple[Tensor, list[int], int]]:
    """(8-bit image, labels, position in the split) of the first images of the first classes, by class."""
    if per_class == 0:
        return []
    index = load_index(evaluation.data)
    batches = make_batches(evaluation.data, index, evaluation.split, trained.input, batch_size=64, reading=reading)
    wanted = min(classes, len(evaluation.classes))
    found: dict[int, list[tuple[Tensor, list[int], int]]] = {label: [] for label in range(wanted)}
    for images, labels, positions in batches.epoch(0):
        for image, label, position in zip(images, labels, positions.tolist(), strict=True):
            several = labels_of(label)
            first = next((k for k in several if k in found and len(found[k]) < per_class), None)
            if first is not None:
                found[first].append((image, several, position))
        if all(len(images) == per_class for images in found.values()):
            break
    return [entry for entries in found.values() for entry in entries]
