"""The evaluation of a trained network: its classification of a split, and metrics of its explanations."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.random_access import images_at
from bcos_cli.evaluate.annotated import load_annotated
from bcos_cli.evaluate.classification import Scores, classify
from bcos_cli.evaluate.explanations import ExplanationMetrics
from bcos_cli.evaluate.metrics import CLASSIFICATION
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.result import Evaluation, Explanations, means
from bcos_cli.evaluate.resumable import PartialResults
from bcos_cli.evaluate.split_images import SplitImages, needs_confidence
from bcos_cli.explain.loaded_model import TrainedModel
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_explain import MetricSpec, metric_specs

OF_SHARDS = ("model", "explainer", "images", "labels", "confidences", "keys")
"""What metrics may need of a set of shards."""
SEVERAL_LABELS = "it needs images of one class, these have several labels"


def evaluate_shards(
    trained: TrainedModel,
    data: str,
    options: EvaluationOptions,
    *,
    index: ShardIndex | None = None,
    name: str = "",
    partial: Path | None = None,
) -> Evaluation:
    """Score `trained` on the shards at `data`.

    Args:
        trained: the network; moved to this process's device.
        data: folder or URL of shards.
        options: what to score.
        index: of the shards, if it is loaded already.
        name: how the result calls the network.
        partial: folder for what was measured of explanations so far, so that a killed evaluation goes on
            there; removed in the end.

    Raises:
        BcosError: shards of other classes, or an unknown explainer.
    """
    index = load_index(data) if index is None else index
    trained.check_classes(index.classes, data)
    options.check()
    specs, skipped = _specs(options, index)
    trained.model.to(process_state().device).eval()
    images = SplitImages(specs, index, options)
    classified = [name for name in options.all_metrics if name in CLASSIFICATION]
    if images.confident is None and images.sampled is not None and not classified:
        scores = None  # nothing is asked of all images: read those that are needed
        read = images_at(data, index, options.split, trained.input, images.sampled.positions, options.reading)
        images.sampled.merge(
            {position: (image, labels[0] if labels else 0) for position, (image, labels) in read.items()}
        )
    else:
        scores = _classify(trained, data, index, options, images)
    shards = [[r.name, r.samples, r.sha256] for r in index.of(options.split)]
    kept = _partial_results(partial, trained, [options.fingerprint(), shards])
    explanations, failed = ExplanationMetrics(trained, images, options, kept).measure_all(specs)
    if classified and index.multi_label:
        classified += [m.name for m in CLASSIFICATION.values() if m.multi_label and m.name not in classified]
    values = {m: float(value) for m in classified if (value := getattr(scores, m, None)) is not None}
    return Evaluation(
        model=name or trained.name,
        data=data,
        split=options.split,
        classes=index.classes,
        classification=scores,
        metrics=values | means(explanations),
        explanations=explanations,
        samples={spec.name: list(keys) for spec in specs if (keys := images.keys(spec))},
        grid_size=options.grid_size,
        skipped=skipped | failed,
        notes=[*_unread(scores, images), *_fewer_grids(specs, explanations, options)],
    )


def evaluate_photos(
    trained: TrainedModel,
    annotations: Path,
    photos: Path,
    options: EvaluationOptions,
    *,
    name: str = "",
    partial: Path | None = None,
) -> Evaluation:
    """Score explanations of photographs whose objects have boxes or masks, for the classes of these objects.

    Raises:
        BcosError: malformed annotations, no image to score, or a metric that works on something else.
    """
    options.check()
    specs = [spec for spec in metric_specs() if spec.name in options.all_metrics]
    if unfit := [m for m in options.all_metrics if m not in {spec.name for spec in specs if spec.unit == "image"}]:
        raise BcosError(f"{', '.join(unfit)} cannot be measured on annotated photographs; leave out --boxes")
    annotated = load_annotated(trained, annotations, photos, masks=any("masks" in spec.needs for spec in specs))
    trained.model.to(process_state().device).eval()
    kept = _partial_results(partial, trained, [options.fingerprint(), annotated.fingerprint()])
    explanations, failed = ExplanationMetrics(trained, annotated, options, kept).measure_all(specs)
    return Evaluation(
        model=name or trained.name,
        data=str(photos),
        split=str(annotations),
        classes=trained.classes,
        classification=None,
        metrics=means(explanations),
        explanations=explanations,
        samples={spec.name: list(annotated.keys) for spec in specs},
        grid_size=options.grid_size,
        skipped=annotated.left_out | failed,
    )


def _specs(options: EvaluationOptions, index: ShardIndex) -> tuple[list[MetricSpec], dict[str, str]]:
    """Metrics of explanations to measure on shards, and those that these cannot have, with the reason."""
    specs = [
        spec for spec in metric_specs() if spec.name in options.all_metrics and (spec.unit != "grid" or options.grids)
    ]
    skipped = {spec.name: SEVERAL_LABELS for spec in specs if index.multi_label and needs_confidence(spec)}
    specs = [spec for spec in specs if spec.name not in skipped]
    for spec in specs:
        if missing := [need for need in spec.needs if need not in OF_SHARDS]:
            raise BcosError(f"{spec.name} needs {' and '.join(missing)}, which shards do not have; see --boxes")
    return specs, skipped


def _classify(
    trained: TrainedModel, data: str, index: ShardIndex, options: EvaluationOptions, images: SplitImages
) -> Scores:
    """Pass the whole split through the network."""
    state = process_state()
    batches = make_batches(
        data,
        index,
        options.split,
        trained.input,
        batch_size=options.batch_size,
        rank=state.process_index,
        world=state.num_processes,
        workers=options.workers,
        reading=options.reading,
    )
    return classify(
        trained,
        trained.model,
        batches,
        options.loss,
        device=state.device,
        samplers=images.samplers,
        show_progress=state.is_main_process,
    )


def _partial_results(folder: Path | None, trained: TrainedModel, what: list[Any]) -> PartialResults:
    """Results of a killed evaluation of the same network, images and options (by the same version of the program)."""
    fingerprint = hashlib.sha256(json.dumps([trained.fingerprint(), *what]).encode()).hexdigest()[:16]
    return PartialResults(folder, fingerprint, process_state().process_index)


def _unread(scores: Scores | None, images: SplitImages) -> list[str]:
    """Say how many images were left out because they are damaged."""
    if scores is not None:
        unread = scores.unread
    else:
        unread = 0 if images.sampled is None else len(images.sampled.positions) - len(images.sampled.state())
    return [f"{unread:,} images could not be read and were left out"] if unread else []


def _fewer_grids(specs: Sequence[MetricSpec], explanations: Explanations, options: EvaluationOptions) -> list[str]:
    """Say where images ran out before all grids were made."""
    for spec in specs:
        for result in explanations.get(spec.name, {}).values() if spec.unit == "grid" else ():
            played = len(result.scores) // result.cluster
            if played < options.grids:
                return [f"{played} grids instead of {options.grids}: no more images were classified with confidence"]
    return []
