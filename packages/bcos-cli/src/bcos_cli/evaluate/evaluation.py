"""Scoring a trained network and its explanations: what ``bcos eval`` and the end of a training do."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import Reading, images_at, make_batches
from bcos_cli.evaluate.annotated import load_annotated
from bcos_cli.evaluate.classification import Scores, evaluate
from bcos_cli.evaluate.explanations import GridOptions, Material, measure, samples
from bcos_cli.evaluate.metrics import CLASSIFICATION, OF_SEVERAL_LABELS
from bcos_cli.evaluate.requirements import Condition
from bcos_cli.evaluate.resumable import PartialResults
from bcos_cli.evaluate.samplers import Collector, SampledImages
from bcos_cli.processes.group import process_state
from bcos_cli.train.losses import LossOptions, make_loss
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_core.plugins import check_options
from bcos_explain import MetricSpec, get_explainer, get_metric, metric_specs
from bcos_explain.metrics import ConfidentImages, MetricResult
from bcos_models import TrainedModel

OF_SHARDS = ("model", "explainer", "images", "labels", "confidences", "keys")
"""What metrics may need of a set of shards."""
SEVERAL_LABELS = "it needs images of one class, these have several labels"
MIN_CONFIDENCE = 0.5
"""Images for the pointing games are classified correctly with more than this probability."""


@dataclass(frozen=True)
class ScoringOptions:
    """What to score, and how."""

    split: str = "test"
    metrics: tuple[str, ...] = ()
    explainers: tuple[str, ...] = ("bcos",)
    batch_size: int = 256
    explain_batch: int = 8
    """Images, or grids, explained at a time."""
    workers: int = 2
    images: int = 64
    """For metrics of single images: as many, spread evenly over the split."""
    grids: int = 100
    grid_size: int = 2
    smooth: int = 1
    seed: int = 0
    loss: str = "bce"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of metrics and explainers, by name."""
    require: tuple[Condition, ...] = ()
    """Conditions, whose metrics are measured too."""
    reading: Reading = field(default_factory=Reading)

    @property
    def measured(self) -> tuple[str, ...]:
        """Metrics, those of conditions among them."""
        return tuple(dict.fromkeys([*self.metrics, *(condition.name for condition in self.require)]))

    def check(self) -> None:
        """Refuse, before anything is computed, what would fail in the end.

        Raises:
            BcosError: an unknown explainer, an option that it or a metric does not have, or that belongs to
                nothing that is measured, or a condition on what is not measured.
        """
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise BcosError(f"smooth must be odd and at least 1, got {self.smooth}; use 1 for no smoothing")
        for explainer in self.explainers:
            get_explainer(explainer, **self.options.get(explainer, {}))
        for name, options in self.options.items():
            if name not in (*self.measured, *self.explainers):
                raise BcosError(f"{name} has options, but is not measured; add --metric or --explainer {name}")
            if name in self.measured:
                check_options(f"the metric {name!r}", get_metric(name), options)
        for condition in self.require:
            condition.check(self.measured, self.explainers)


@dataclass
class Evaluation:
    """All scores of a network on a split; what ``evaluation.json`` holds."""

    model: str
    data: str
    split: str
    classes: list[str]
    classification: Scores | None
    """None where only some images were looked at."""
    metrics: dict[str, float]
    """Every mean by ``metric`` or ``metric/explainer``."""
    explanations: dict[str, dict[str, MetricResult]]
    """Results by metric and explainer (``""`` where a metric takes none)."""
    samples: dict[str, list[int] | list[str]]
    """What the scores of a metric belong to, where they are of single images: positions in the split, or files."""
    grid_size: int
    skipped: dict[str, str]
    """Metrics that could not be measured, and why."""
    notes: list[str] = field(default_factory=list)
    """What else a reader of the scores should know."""

    @property
    def scores(self) -> Scores:
        """Classification scores, where all images were looked at."""
        assert self.classification is not None
        return self.classification

    @property
    def gridpg(self) -> dict[str, MetricResult]:
        """The grid pointing game of each explainer."""
        return self.explanations.get("gridpg", {})

    def to_json(self) -> str:
        """JSON with every value."""
        values = {k: v for k, v in vars(self).items() if k not in ("explanations", "classification")}
        values["metrics"] = {name: None if math.isnan(mean) else mean for name, mean in self.metrics.items()}
        values["scores"] = None if self.classification is None else asdict(self.classification)
        values["explanations"] = {m: {e: r.to_dict() for e, r in by.items()} for m, by in self.explanations.items()}
        return json.dumps(values, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the JSON whole or not at all."""
        write_atomically(path, self.to_json())


def score(
    trained: TrainedModel,
    data: str,
    options: ScoringOptions,
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
    state = process_state()
    index = load_index(data) if index is None else index
    trained.check_classes(index.classes, data)
    options.check()
    specs = [spec for spec in metric_specs() if spec.name in options.measured and not _left_out(spec, options)]
    several = {spec.name: SEVERAL_LABELS for spec in specs if index.multi_label and _needs_one_label(spec)}
    specs = [spec for spec in specs if spec.name not in several]
    for spec in specs:
        if missing := [need for need in spec.needs if need not in OF_SHARDS]:
            raise BcosError(f"{spec.name} needs {' and '.join(missing)}, which shards do not have; see --boxes")
    trained.model.to(state.device).eval()
    sampled, confident = _collectors(specs, options, index)
    if confident is None and sampled is not None and not any(m in CLASSIFICATION for m in options.measured):
        scores = None  # nothing is asked of all images
        picked = images_at(data, index, options.split, trained.input, sampled.positions, options.reading)
        sampled.take({position: (image, labels[0] if labels else 0) for position, (image, labels) in picked.items()})
    else:
        scores = _classify(trained, data, index, options, [c for c in (sampled, confident) if c is not None])
    material = _material(trained, options, sampled=sampled, confident=confident)
    kept = PartialResults(partial, _fingerprint(trained, index, options), state.process_index)
    explanations, skipped = _measure_all(material, specs, options.explainers, kept)
    skipped = several | skipped
    metrics = {
        m: float(value) for m in _classification(options, index) if (value := getattr(scores, m, None)) is not None
    }
    return Evaluation(
        model=name or trained.name,
        data=data,
        split=options.split,
        classes=index.classes,
        classification=scores,
        metrics=metrics | _means(explanations),
        explanations=explanations,
        samples={spec.name: found for spec in specs if (found := samples(material, spec))},
        grid_size=options.grid_size,
        skipped=skipped,
        notes=[*_unread(scores, sampled), *_fewer_grids(specs, explanations, options)],
    )


def _unread(scores: Scores | None, sampled: SampledImages | None) -> list[str]:
    """Where images were left out because they are damaged."""
    if scores is not None:
        unread = scores.unread
    else:
        unread = 0 if sampled is None else len(sampled.positions) - len(sampled.state())
    return [f"{unread:,} images could not be read and were left out"] if unread else []


def _fewer_grids(
    specs: list[MetricSpec], explanations: Mapping[str, Mapping[str, MetricResult]], options: ScoringOptions
) -> list[str]:
    """Where images ran out before all grids were made."""
    for spec in specs:
        for result in explanations.get(spec.name, {}).values() if spec.unit == "grid" else ():
            played = len(result.scores) // result.cluster
            if played < options.grids:
                return [f"{played} grids instead of {options.grids}: no more images were classified with confidence"]
    return []


def score_annotated(
    trained: TrainedModel,
    annotations: Path,
    photos: Path,
    options: ScoringOptions,
    *,
    name: str = "",
    partial: Path | None = None,
) -> Evaluation:
    """Score explanations of photographs whose objects have boxes or masks, for the classes of these objects.

    Raises:
        BcosError: malformed annotations, no image to score, or a metric that works on something else.
    """
    state = process_state()
    options.check()
    specs = [spec for spec in metric_specs() if spec.name in options.measured]
    if unfit := [m for m in options.measured if m not in {spec.name for spec in specs if spec.unit == "image"}]:
        raise BcosError(f"{', '.join(unfit)} cannot be measured on annotated photographs; leave out --boxes")
    masks = any("masks" in spec.needs for spec in specs)
    annotated = load_annotated(trained, annotations, photos, masks=masks)
    trained.model.to(state.device).eval()
    material = _material(trained, options, annotated=annotated)
    measured = [material.options, options.smooth, options.explain_batch]
    fingerprint = hashlib.sha256(json.dumps([trained.fingerprint(), annotated.fingerprint(), measured]).encode())
    kept = PartialResults(partial, fingerprint.hexdigest()[:16], state.process_index)
    explanations, skipped = _measure_all(material, specs, options.explainers, kept)
    return Evaluation(
        model=name or trained.name,
        data=str(photos),
        split=str(annotations),
        classes=trained.classes,
        classification=None,
        metrics=_means(explanations),
        explanations=explanations,
        samples={spec.name: list(annotated.keys) for spec in specs},
        grid_size=options.grid_size,
        skipped={**annotated.left_out, **skipped},
    )


def _means(explanations: Mapping[str, Mapping[str, MetricResult]]) -> dict[str, float]:
    """Mean of each metric, by ``metric`` or ``metric/explainer``."""
    return {
        f"{metric}/{explainer}" if explainer else metric: result.mean
        for metric, results in explanations.items()
        for explainer, result in results.items()
    }


def _classify(
    trained: TrainedModel, data: str, index: ShardIndex, options: ScoringOptions, collectors: list[Collector]
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
    return evaluate(
        trained,
        trained.model,
        batches,
        make_loss(options.loss, LossOptions(evaluation=True)),
        device=state.device,
        collectors=collectors,
        show_progress=state.is_main_process,
    )


def _needs_one_label(spec: MetricSpec) -> bool:
    return spec.unit == "grid" or "confidences" in spec.needs


def _classification(options: ScoringOptions, index: ShardIndex) -> list[str]:
    """Metrics of classification that are asked for; with several labels an image also those that are made for that."""
    asked = [metric for metric in options.measured if metric in CLASSIFICATION]
    return asked + [m for m in OF_SEVERAL_LABELS if asked and index.multi_label and m not in asked]


def _left_out(spec: MetricSpec, options: ScoringOptions) -> bool:
    return spec.unit == "grid" and options.grids == 0


def _collectors(
    specs: list[MetricSpec], options: ScoringOptions, index: ShardIndex
) -> tuple[SampledImages | None, ConfidentImages | None]:
    of_confident = [spec for spec in specs if _needs_one_label(spec)]
    total = sum(record.samples for record in index.of(options.split))
    sampled = SampledImages(options.images, total) if len(of_confident) < len(specs) else None
    wanted = max(options.grids * options.grid_size**2, len(index.classes))
    per_class = 2 * -(-wanted // len(index.classes))  # drawn at random, some classes give more
    confident = ConfidentImages(per_class, min_confidence=MIN_CONFIDENCE) if of_confident else None
    return sampled, confident


def _material(trained: TrainedModel, options: ScoringOptions, **images: Any) -> Material:
    grids = GridOptions(options.grid_size, options.grids, options.smooth, options.seed)
    named = {k: dict(v) for k, v in options.options.items()}
    return Material(trained, grids=grids, batch_size=options.explain_batch, options=named, **images)


def _measure_all(
    material: Material, specs: list[MetricSpec], explainers: tuple[str, ...], partial: PartialResults
) -> tuple[dict[str, dict[str, MetricResult]], dict[str, str]]:
    """Results by metric and explainer; what cannot be measured is no reason to lose the rest."""
    explanations: dict[str, dict[str, MetricResult]] = {}
    skipped: dict[str, str] = {}
    for spec in specs:
        for explainer in explainers if "explainer" in spec.needs else (None,):
            try:
                explanations.setdefault(spec.name, {})[explainer or ""] = measure(material, spec, explainer, partial)
            except BcosError as reason:
                skipped[spec.name if explainer is None else f"{spec.name}/{explainer}"] = str(reason)
    if process_state().is_main_process:
        partial.clear()
    return {metric: results for metric, results in explanations.items() if results}, skipped


def _fingerprint(trained: TrainedModel, index: ShardIndex, options: ScoringOptions) -> str:
    """Of all that results of explanations depend on, apart from the version of this program."""
    measured = asdict(options)
    for irrelevant in ("metrics", "explainers", "batch_size", "workers", "loss", "require"):
        del measured[irrelevant]
    shards = [[r.name, r.samples, r.sha256] for r in index.of(options.split)]
    return hashlib.sha256(json.dumps([trained.fingerprint(), measured, shards]).encode()).hexdigest()[:16]
