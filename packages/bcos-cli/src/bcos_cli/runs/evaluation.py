"""The evaluation of a run as its recipe says, when it ends and for ``bcos eval``."""

from pathlib import Path
from typing import Any

from bcos_cli import console
from bcos_cli.config import Recipe
from bcos_cli.config.locations import absolute
from bcos_cli.config.network import load_network
from bcos_cli.config.output_path import check_writable
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.reading import Reading
from bcos_cli.data.splits import NamedShards, ScoredSplit, find_split, scored_split, shards_of
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.metrics import DEFAULT, check_metrics
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.result import Evaluation, ScoreFiles, print_evaluation
from bcos_cli.folder_lock import locked_folder
from bcos_cli.processes.group import process_state
from bcos_cli.runs.report import report_data
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.losses import LossOptions, loss_of_scores, make_loss
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.trainer import TrainingResult
from bcos_cli.train.validation_split import chooses
from bcos_core.errors import BcosError
from bcos_explain.report import write_report
from bcos_models import TrainedModel


def finish_run(result: TrainingResult, out: Path) -> Evaluation | None:
    """Score a trained network as its recipe says, and write ``evaluation.json`` and ``report.html``.

    Returns None for a network without classes, which has learned a teacher's embedding.
    """
    if isinstance(result.scores, Agreement):
        if process_state().is_main_process:
            console.out.print(
                f"run     {out}\nweights {RunFolder(out).weights}\n"
                f"cosine of its outputs and the teacher's: {result.scores.cosine:.4f} over "
                f"{result.scores.samples:,} images\n"
                f"train a classifier on it with: bcos train --from {out} --data SHARDS"
            )
        return None
    split = _own_split(result.recipe, result.index)
    options = recipe_options(result.recipe, split=split.name)
    evaluation = evaluate_shards(result.trained, result.data, options, index=result.index, name=str(out))
    evaluation.notes += _split_notes(split, result.recipe, result.index)
    _write_run(RunFolder(out), result.recipe, result.trained, evaluation)
    return evaluation


def evaluate_run(
    run_or_model: str,
    given: dict[str, Any],
    *,
    shards: NamedShards | None = None,
    weights: str | None = None,
    classes: Path | None = None,
    files: ScoreFiles | None = None,
) -> Evaluation:
    """Score what a user names; for a run's folder on its own test split, rewrite its evaluation and report.

    Args:
        given: fields of :class:`EvaluationOptions` that replace those of the run's recipe.
        shards: None for those of the run.
        files: what to write; partial results of a run are in its own folder by default.

    Raises:
        BcosError: nothing of that name, no shards, or an unknown metric or explainer.
    """
    files = files or ScoreFiles()
    files.check()
    trained = load_network(run_or_model, weights, classes)
    folder = RunFolder(Path(run_or_model))
    shards = shards or shards_of(run_or_model, asked=given.get("split"))
    recipe, location, index, split = shards.recipe, shards.location, shards.index, shards.split
    files.check_apart([location, run_or_model, weights, classes])
    given = {**given, "split": split.name}
    if recipe is None:
        loss = make_loss("cross_entropy" if trained.probabilities == "softmax" else "bce", LossOptions(evaluation=True))
        options = EvaluationOptions(**{"loss": loss, "metrics": DEFAULT, **given})
    else:
        options = recipe_options(recipe, **given)
    read_only = _read_only(folder.path)
    if recipe is not None and not read_only:
        folder.check_links_of_scores()
    partial = files.partial or (None if recipe is None or read_only else folder.partial)
    evaluation = evaluate_shards(
        trained, location, options, index=index, name=run_or_model, partial=partial, named=files.folder is not None
    )
    scored = None if recipe is None or recipe.data.path is None else absolute(recipe.data.path)
    own = recipe if absolute(location) == scored else None
    evaluation.notes += _split_notes(split, own, index)
    if not process_state().is_main_process:
        return evaluation
    files.write(evaluation)
    covers = own is not None and _covers_report(options, own, _own_split(own, index).name)
    if own is not None and covers and not read_only:
        _write_run(folder, own, trained, evaluation)
        return evaluation
    print_evaluation(evaluation)
    if recipe is not None:
        reason = "its folder cannot be written" if covers else "this evaluation lacks some that its recipe asks for"
        reason = reason if own is not None else "they are of the run's own data, these of others"
        console.err.print(f"the scores in the run's evaluation.json and report.html stay: {reason}")
    return evaluation


def _read_only(folder: Path) -> bool:
    try:
        check_writable(folder)
    except BcosError:
        return True
    return False


def recipe_options(recipe: Recipe, **given: Any) -> EvaluationOptions:
    """Return the options that a recipe describes, with some values replaced."""
    config = recipe.evaluation
    values: dict[str, Any] = {
        "split": recipe.data.test_split,
        "metrics": tuple(check_metrics([*DEFAULT, *config.metrics])),
        "explainers": tuple(config.explainers),
        "batch_size": config.batch_size,
        "workers": recipe.data.workers,
        "grids": config.gridpg_grids,
        "grid_size": config.gridpg_size,
        "smooth": config.gridpg_smooth,
        "seed": recipe.train.seed,
        "loss": make_loss(loss_of_scores(recipe.train.loss), LossOptions(evaluation=True)),
        "reading": Reading.of(recipe.data),
    }
    return EvaluationOptions(**{**values, **given})


def _covers_report(options: EvaluationOptions, recipe: Recipe, split: str) -> bool:
    """Whether these scores suffice for a run's report: its own `split`, every metric, as many grids or more."""
    config = recipe.evaluation
    return (
        options.split == split
        and options.images >= EvaluationOptions.images
        and not options.options
        and set(options.metrics) >= {*DEFAULT, *config.metrics}
        and set(options.explainers) >= set(config.explainers)
        and options.grids >= config.gridpg_grids
        and (options.grid_size, options.smooth) == (config.gridpg_size, config.gridpg_smooth)
    )


def _own_split(recipe: Recipe, index: ShardIndex) -> ScoredSplit:
    """Return the split that a run is scored on in the end."""
    return scored_split(index, test=recipe.data.test_split, val=recipe.data.val_split)


def _split_notes(split: ScoredSplit, recipe: Recipe | None, index: ShardIndex) -> list[str]:
    """Return what a reader should know about the scored images; `recipe` is that of the run that they belong to."""
    notes = [] if split.note is None else [split.note]
    if recipe is None or not chooses(recipe):
        return notes
    if recipe.data.val_share is None and split.name == find_split(index, recipe.data.test_split):
        notes.append(
            f"the epoch of the network was chosen on these images ({split.name}), in a run of an older version"
        )
    elif split.name == recipe.data.val_split:
        notes.append(f"the epoch of the network was chosen on these images ({split.name})")
    return notes


def _write_run(folder: RunFolder, recipe: Recipe, trained: TrainedModel, evaluation: Evaluation) -> None:
    """Write a run's evaluation and report, and say where they are."""
    if not process_state().is_main_process:
        return
    report = report_data(recipe, trained, evaluation, folder.read_metrics())
    with locked_folder(folder.scores, "writing scores", timeout=60):  # all files are of the same evaluation
        evaluation.save(folder.evaluation)
        evaluation.write_scores(folder.scores)
        write_report(folder.report, report)
    print_evaluation(evaluation)
    console.out.print(f"run     {folder.path}\nweights {folder.weights}\nreport  {folder.report}")
    scores = " · ".join(f"{name} {value}" for name, value in report.headline.items())
    console.out.print(f"scores  {scores}", soft_wrap=True)
