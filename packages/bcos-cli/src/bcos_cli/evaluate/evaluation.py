"""The evaluation of a trained network on a split: its classification, and metrics of its explanations."""

from collections.abc import Sequence
from pathlib import Path

from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import images_at, make_batches
from bcos_cli.evaluate.classification import Scores, classify
from bcos_cli.evaluate.explanations import ExplanationMetrics
from bcos_cli.evaluate.metrics import CLASSIFICATION, explanation_metrics
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.predictions import SplitPredictions
from bcos_cli.evaluate.result import Evaluation, Explanations, low_share_notes, score_values
from bcos_cli.evaluate.resumable import partial_results
from bcos_cli.evaluate.samplers import Sampler, SplitImages, needs_confidence
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_explain import MetricSpec
from bcos_models import TrainedModel

OF_SHARDS = ("model", "explainer", "images", "labels", "confidences", "keys")
"""Inputs of metrics that shards can give."""
SEVERAL_LABELS = "it needs images of one class, but these have several labels"


def evaluate_shards(
    trained: TrainedModel,
    data: str,
    options: EvaluationOptions,
    *,
    index: ShardIndex | None = None,
    name: str = "",
    partial: Path | None = None,
    named: bool = False,
) -> Evaluation:
    """Score `trained`, which is moved to this process's device, on the shards at `data`.

    Args:
        index: index of the shards, if it is loaded already.
        name: name of the network in the result.
        partial: folder for partial results, from which a killed evaluation continues; removed in the end.
        named: keep the prediction of every image, with its name in the shards.

    Raises:
        BcosError: shards of other classes, or an unknown explainer.
    """
    given = load_index(data) if index is None else index
    index = given.aligned(trained, data, options.split)
    options.check()
    specs, skipped = _specs(options, index)
    trained.model.to(process_state().device).eval()
    images = SplitImages(specs, index, options)
    classified = [name for name in options.all_metrics if name in CLASSIFICATION]
    predictions = SplitPredictions(trained.classes)
    if images.confident is None and images.sampled is not None and not classified and not named:
        scores = None  # no metric needs all images: read the sample only
        read = images_at(data, index, options.split, trained.input, images.sampled.positions, options.reading)
        images.sampled.merge({key: (image, labels[0] if labels else 0) for key, (image, labels) in read.items()})
    else:
        scores = _classify(trained, data, index, options, images.samplers, predictions, named)
    shards: list[object] = [[r.name, r.samples, r.sha256] for r in index.of(options.split)]
    shards.append(list(index.numbers))
    kept = partial_results(partial, trained.fingerprint(), options.fingerprint(), shards)
    explanations, failed = ExplanationMetrics(trained, images.inputs, options, kept).measure_all(specs)
    if classified and index.multi_label:
        classified += [m.name for m in CLASSIFICATION.values() if m.multi_label and m.name not in classified]
    values = {m: float(value) for m in classified if (value := getattr(scores, m, None)) is not None}
    return Evaluation(
        model=name or trained.name,
        data=data,
        split=options.split,
        classes=index.classes,
        classification=scores,
        metrics=values | score_values(explanations),
        explanations=explanations,
        samples={spec.name: list(keys) for spec in specs if (keys := images.keys(spec))},
        grid_size=options.grid_size,
        skipped=skipped | failed,
        notes=[
            *_matching(trained, given, index),
            *_unread(scores, images),
            *_fewer_grids(specs, explanations, options),
            *low_share_notes(explanations),
            *([] if scores is None or scores.collapse is None else [scores.collapse]),
        ],
        predictions=None if scores is None else predictions,
    )


def _specs(options: EvaluationOptions, index: ShardIndex) -> tuple[list[MetricSpec], dict[str, str]]:
    """Return the metrics of explanations that these shards allow, and the others with the reason."""
    specs = [spec for spec in explanation_metrics() if spec.name in options.all_metrics]
    specs = [spec for spec in specs if spec.unit != "grid" or options.grids > 0]
    skipped = {spec.name: SEVERAL_LABELS for spec in specs if index.multi_label and needs_confidence(spec)}
    specs = [spec for spec in specs if spec.name not in skipped]
    for spec in specs:
        check_of_shards(spec)
    return specs, skipped


def check_of_shards(spec: MetricSpec) -> None:
    """Refuse a metric that needs what shards do not have."""
    if missing := [need for need in spec.needs if need not in OF_SHARDS]:
        raise BcosError(f"{spec.name} needs {' and '.join(missing)}, which shards do not have; see --boxes")


def _classify(
    trained: TrainedModel,
    data: str,
    index: ShardIndex,
    options: EvaluationOptions,
    samplers: Sequence[Sampler],
    predictions: SplitPredictions,
    named: bool,
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
        named=named,
    )
    with batches:
        return classify(
            trained,
            trained.model,
            batches,
            options.loss,
            device=state.device,
            samplers=samplers,
            predictions=predictions,
            show_progress=state.is_main_process,
        )


def _matching(trained: TrainedModel, given: ShardIndex, index: ShardIndex) -> list[str]:
    """Say where the shards lack classes that the network knows, and where one of the two does not name them."""
    own, there = len(index.classes), sum(k >= 0 for k in index.numbers)
    notes = [f"the shards have {there:,} of the {own:,} classes that the network knows"] if there < own else []
    if given.classes != trained.classes and any(
        all(name.isdecimal() for name in names) for names in (given.classes, trained.classes)
    ):
        notes.append("classes are matched by number: the network, or the shards, do not name them")
    return notes + index.left_aside


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
