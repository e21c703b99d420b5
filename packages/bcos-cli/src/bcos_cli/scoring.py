"""Scoring a trained network and its explanations: what ``bcos eval`` and the end of a training do."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bcos_cli import console
from bcos_cli.config import Loss
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.evaluation import Scores, evaluate
from bcos_cli.metrics import CLASSIFICATION
from bcos_cli.processes import process_state
from bcos_cli.trained import TrainedModel
from bcos_cli.training.optim import make_loss
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_explain import get_explainer, get_metric, metric_specs
from bcos_explain.metrics.confident import ConfidentImages
from bcos_explain.metrics.gridpg import grid_pointing_game

GRIDPG_BATCH = 8
"""Grids explained at a time."""
PLUGIN_IMAGES = 64
"""First images of the split, given to metrics that need no confident ones."""


@dataclass(frozen=True)
class ScoringOptions:
    """What to score, and how."""

    split: str = "test"
    metrics: tuple[str, ...] = ()
    explainers: tuple[str, ...] = ("bcos",)
    batch_size: int = 256
    workers: int = 2
    grids: int = 100
    grid_size: int = 2
    smooth: int = 1
    seed: int = 0
    loss: Loss = "bce"


@dataclass
class GridScores:
    """The grid pointing game of one explainer."""

    mean: float
    std: float
    images: int
    chance: float
    scores: list[float] = field(repr=False, default_factory=list)


@dataclass
class Evaluation:
    """All scores of a network on a split; what ``evaluation.json`` holds."""

    model: str
    data: str
    split: str
    classes: list[str]
    scores: Scores
    metrics: dict[str, float]
    gridpg: dict[str, GridScores]
    grid_size: int
    skipped: dict[str, str]
    """Metrics that could not be measured, and why."""

    def to_json(self) -> str:
        """JSON with every value."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the JSON whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.to_json())


def score(
    trained: TrainedModel,
    data: str,
    options: ScoringOptions,
    *,
    index: ShardIndex | None = None,
    name: str = "",
) -> Evaluation:
    """Score `trained` on the shards at `data`.

    Args:
        trained: the network; moved to this process's device.
        data: folder or URL of shards.
        options: what to score.
        index: of the shards, if it is loaded already.
        name: how the result calls the network.

    Raises:
        BcosError: shards of other classes, or an unknown explainer.
    """
    state = process_state()
    index = load_index(data) if index is None else index
    if len(index.classes) != len(trained.classes):
        raise BcosError(
            f"the network knows {len(trained.classes)} classes, the shards at {data!r} have {len(index.classes)}; "
            "give the shards it was trained on"
        )
    with_grids = "gridpg" in options.metrics and options.grids > 0
    explainers = {e: get_explainer(e) for e in options.explainers} if with_grids else {}
    wanted = options.grids * options.grid_size**2
    per_class = 2 * -(-wanted // len(index.classes)) if with_grids else 0  # drawn at random, some classes give more
    trained.model.to(state.device).eval()
    batches = make_batches(
        data,
        index,
        options.split,
        trained.input,
        batch_size=options.batch_size,
        rank=state.process_index,
        world=state.num_processes,
        workers=options.workers,
    )
    evaluated = evaluate(
        trained,
        trained.model,
        batches,
        make_loss(options.loss, evaluation=True),
        device=state.device,
        confident_per_class=per_class,
        show_progress=state.is_main_process,
    )
    gridpg: dict[str, GridScores] = {}
    skipped: dict[str, str] = {}
    metrics = {m: getattr(evaluated.scores, m) for m in options.metrics if hasattr(evaluated.scores, m)}
    if state.is_main_process:  # the others need not wait: nothing follows that they take part in
        for metric in (m for m in options.metrics if m not in CLASSIFICATION):
            try:
                if metric != "gridpg":
                    metrics |= _of_explanations(metric, trained, data, index, options, evaluated.confident)
                elif evaluated.confident is not None:
                    gridpg = {e: _gridpg(trained, e, f, evaluated.confident, options) for e, f in explainers.items()}
            except BcosError as reason:  # no reason to lose the other scores
                skipped[metric] = str(reason)
        metrics |= {f"gridpg/{e}": result.mean for e, result in gridpg.items()}
    return Evaluation(
        name or trained.name,
        data,
        options.split,
        index.classes,
        evaluated.scores,
        metrics,
        gridpg,
        options.grid_size,
        skipped,
    )


def _gridpg(
    trained: TrainedModel, name: str, explainer: Any, confident: ConfidentImages, options: ScoringOptions
) -> GridScores:
    images, labels, confidences = confident.collected()
    with console.counted(f"gridpg {name}", options.grids) as counter:
        result = grid_pointing_game(
            trained.model,
            explainer,
            images,
            labels,
            confidences,
            n=options.grid_size,
            num_grids=options.grids,
            smooth=options.smooth,
            batch_size=GRIDPG_BATCH,
            generator=torch.Generator().manual_seed(options.seed),
            encode=trained.encode,
            progress=counter.set,
        )
    return GridScores(result.mean, result.std, len(result.scores), result.chance, result.scores.tolist())


def _of_explanations(
    name: str,
    trained: TrainedModel,
    data: str,
    index: ShardIndex,
    options: ScoringOptions,
    confident: ConfidentImages | None,
) -> dict[str, float]:
    """Mean of a plugin's metric, for each explainer if it takes one; called with what its description needs."""
    spec = next(spec for spec in metric_specs() if spec.name == name)
    given: dict[str, Any] = {"model": trained.model}
    if {"labels", "confidences"} & set(spec.needs):
        if confident is None:
            raise BcosError("it needs confident images, which are collected for gridpg; evaluate that too")
        given["images"], given["labels"], given["confidences"] = confident.collected()
    else:
        batches = make_batches(data, index, options.split, trained.input, batch_size=PLUGIN_IMAGES)
        given["images"], given["labels"], _ = next(iter(batches.epoch(0)))
    if unknown := [need for need in spec.needs if need not in (*given, "explainer")]:
        raise BcosError(f"it needs {', '.join(unknown)}, which bcos eval does not have")
    function = get_metric(name)
    if "explainer" not in spec.needs:
        return {name: float(function(*(given[n] for n in spec.needs), encode=trained.encode).mean)}
    means = {}
    for explainer in options.explainers:
        given["explainer"] = get_explainer(explainer)
        result = function(*(given[n] for n in spec.needs), encode=trained.encode)
        means[f"{name}/{explainer}"] = float(result.mean)
    return means
