"""The end of a run: scores, ``report.html`` and a table in the terminal."""

from pathlib import Path
from typing import Any

from bcos_cli import console
from bcos_cli.config import Recipe
from bcos_cli.config.output_path import check_writable
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.reading import Reading
from bcos_cli.data.splits import ScoredSplit, find_split, scored_split
from bcos_cli.evaluate.classification import Scores
from bcos_cli.evaluate.evaluation import Evaluation, ScoringOptions, score, score_annotated
from bcos_cli.evaluate.gallery import gallery
from bcos_cli.evaluate.metrics import DEFAULT, check_metrics
from bcos_cli.evaluate.report_scores import grid_scores, metric_scores, metric_tables, remarks_of
from bcos_cli.explain.loaded_model import TrainedModel, data_of, load_trained, recipe_of
from bcos_cli.explain.neurons import NeuronOptions, neuron_rows
from bcos_cli.processes.group import process_state
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.epoch_score import role_of
from bcos_cli.train.losses import loss_of_scores
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.trainer import TrainingResult
from bcos_cli.train.validation_split import chooses
from bcos_core.errors import BcosError
from bcos_explain.metrics import write_results
from bcos_explain.report import Confusion, NeuronRow, ReportData, write_report

PARTIAL = ".partial"
"""Folder of what was measured so far."""
SCANNED_FOR_NEURONS = 2000
"""Images at the start of the split in which the report looks for the most activating ones."""
SCORES = "scores"
"""Folder in that of a run for every score."""


def finish_run(result: TrainingResult, out: Path) -> Evaluation | None:
    """Score a trained network as its recipe says, and write ``evaluation.json`` and ``report.html``.

    None for a network that has no classes, because it has learned a teacher's embedding.
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
    options = scoring_options(result.recipe, split=split.name)
    evaluation = score(result.trained, result.data, options, index=result.index, name=str(out))
    evaluation.notes += _of_split(split, result.recipe, result.index)
    _write_run(RunFolder(out), result.recipe, result.trained, evaluation)
    return evaluation


def _own_split(recipe: Recipe, index: ShardIndex) -> ScoredSplit:
    """Split that a run is scored on in the end."""
    return scored_split(index, test=recipe.data.test_split, val=recipe.data.val_split)


def _of_split(split: ScoredSplit, recipe: Recipe | None, index: ShardIndex) -> list[str]:
    """What a reader should know of the images that were scored."""
    notes = [] if split.note is None else [split.note]
    if recipe is None or not chooses(recipe):
        return notes
    if recipe.data.val_share is None and split.name == find_split(index, recipe.data.test_split):
        notes.append(f"these images ({split.name}) chose the epoch of the network, in a run of an older version")
    elif split.name == recipe.data.val_split:
        notes.append(f"these images ({split.name}) chose the epoch of the network")
    return notes


def evaluate_run(
    run_or_model: str,
    data: str | None,
    weights: str | None,
    json_file: Path | None,
    given: dict[str, Any],
    *,
    out: Path | None = None,
) -> Evaluation:
    """Score what a user names; for a run's folder on its own test split, renew its evaluation and report.

    Args:
        run_or_model: as :func:`bcos_cli.explain.loaded_model.load_trained` takes it.
        data: shards; None for those of the run.
        weights: of a model by name.
        json_file: for all values.
        given: fields of :class:`ScoringOptions` that replace those of the run's recipe.
        out: folder for every score as CSV and JSON, and for what a killed evaluation goes on with; for a run,
            by default, its own.

    Raises:
        BcosError: nothing of that name, no shards, or an unknown metric or explainer.
    """
    _check_outputs(json_file, out)
    trained = load_trained(run_or_model, weights)
    folder = RunFolder(Path(run_or_model))
    recipe = recipe_of(run_or_model, data=data)
    location = data_of(run_or_model, data)
    index = load_index(location)
    asked = given.get("split")
    split = scored_split(index, asked) if recipe is None or asked is not None else _own_split(recipe, index)
    given = {**given, "split": split.name}
    if recipe is None:
        loss = "cross_entropy" if trained.probabilities == "softmax" else "bce"
        options = ScoringOptions(**{"loss": loss, "metrics": DEFAULT, **given})
    else:
        options = scoring_options(recipe, **given)
    kept = out or (folder.path if recipe is not None else None)
    partial = None if kept is None else kept / PARTIAL
    evaluation = score(trained, location, options, index=index, name=run_or_model, partial=partial)
    is_own = recipe is not None and location == recipe.data.path
    evaluation.notes += _of_split(split, recipe if is_own else None, index)
    if not process_state().is_main_process:
        return evaluation
    if json_file is not None:
        evaluation.save(json_file)
    if out is not None:
        write_scores(evaluation, out)
    if recipe is not None and is_own and _is_full(options, recipe, _own_split(recipe, index).name):
        _write_run(folder, recipe, trained, evaluation)
    else:
        show(evaluation)
        if recipe is not None:
            console.err.print(
                "evaluation.json and report.html of the run stay as they are: its recipe scores more, or other things"
            )
    return evaluation


def evaluate_annotated(
    run_or_model: str,
    boxes: Path,
    photos: Path,
    weights: str | None,
    json_file: Path | None,
    given: dict[str, Any],
    *,
    out: Path | None = None,
) -> Evaluation:
    """Score explanations of annotated photographs; arguments as for :func:`evaluate_run`.

    Raises:
        BcosError: as :func:`bcos_cli.evaluate.evaluation.score_annotated`.
    """
    _check_outputs(json_file, out)
    trained = load_trained(run_or_model, weights)
    options = ScoringOptions(**{"metrics": ("epg",), **given})
    partial = None if out is None else out / PARTIAL
    evaluation = score_annotated(trained, boxes, photos, options, name=run_or_model, partial=partial)
    if process_state().is_main_process:
        if json_file is not None:
            evaluation.save(json_file)
        if out is not None:
            write_scores(evaluation, out)
        show(evaluation)
    return evaluation


def _check_outputs(json_file: Path | None, out: Path | None) -> None:
    if json_file is not None:
        check_writable(json_file, "--json")
    if out is not None:
        check_writable(out / SCORES)


def write_scores(evaluation: Evaluation, folder: Path) -> None:
    """Write every score of every metric of explanations as CSV and JSON."""
    results = {
        f"{metric}/{explainer}" if explainer else metric: result
        for metric, by_explainer in evaluation.explanations.items()
        for explainer, result in by_explainer.items()
    }
    if results:
        keys = {name: found for name in results if (found := evaluation.samples.get(name.partition("/")[0]))}
        write_results(folder, results, keys)


def scoring_options(recipe: Recipe, **given: Any) -> ScoringOptions:
    """What a recipe says about scoring, with some values replaced."""
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
        "loss": loss_of_scores(recipe.train.loss),
        "reading": Reading.of(recipe.data),
    }
    return ScoringOptions(**{**values, **given})


def _is_full(options: ScoringOptions, recipe: Recipe, split: str) -> bool:
    """Whether these scores are what a run's report shows: its own `split`, every metric, as many grids or more."""
    config = recipe.evaluation
    return (
        options.split == split
        and options.images >= ScoringOptions.images
        and not options.options
        and set(options.metrics) >= {*DEFAULT, *config.metrics}
        and set(options.explainers) >= set(config.explainers)
        and options.grids >= config.gridpg_grids
        and (options.grid_size, options.smooth) == (config.gridpg_size, config.gridpg_smooth)
    )


def show(evaluation: Evaluation) -> None:
    """Print the scores as a table."""
    shares = {
        "top1",
        "top5",
        "calibration_error",
        "mean_average_precision",
        "f1",
        "gridpg",
        "difull",
        "dipart",
        "epg",
        "epg_masks",
    }
    rows = []
    for name, value in evaluation.metrics.items():
        metric, _, explainer = name.partition("/")
        result = evaluation.explanations.get(metric, {}).get(explainer)
        number = "{:.2%}".format if metric in shares else "{:.4g}".format
        interval = "" if result is None else " to ".join(map(number, result.bootstrap_interval()))
        chance = "" if result is None or result.chance is None else number(result.chance)
        count = "" if result is None else f"{result.count:,}"
        better = {True: "higher", False: "lower", None: ""}[None if result is None else result.higher_is_better]
        rows.append((name, number(value), interval, chance, count, better))
    rows += [(name, f"not measured: {reason}", "", "", "", "") for name, reason in evaluation.skipped.items()]
    rows += [("note", note, "", "", "", "") for note in evaluation.notes]
    images = f"{evaluation.scores.samples:,} images of " if evaluation.classification else ""
    title = f"{evaluation.model} on {images}{evaluation.data} ({evaluation.split})"
    columns = ["metric", "value", "95 % interval", "by chance", "scores", "better"]
    used = [i for i in range(len(columns)) if i < 2 or any(row[i] for row in rows)]
    console.table(title, [columns[i] for i in used], [[row[i] for i in used] for row in rows])
    for metric, results in evaluation.explanations.items():
        for explainer, lines in remarks_of(results).items():
            for line in lines:
                console.out.print(f"{metric}/{explainer}: {line}", markup=False)


def _write_run(folder: RunFolder, recipe: Recipe, trained: TrainedModel, evaluation: Evaluation) -> None:
    """Write a run's evaluation and report, and say where they are."""
    if not process_state().is_main_process:
        return
    evaluation.save(folder.evaluation)
    write_scores(evaluation, folder.path / SCORES)
    data = report_data(recipe, trained, evaluation, folder.read_metrics())
    write_report(folder.report, data)
    show(evaluation)
    console.out.print(f"run     {folder.path}\nweights {folder.weights}\nreport  {folder.report}")


def report_data(
    recipe: Recipe, trained: TrainedModel, evaluation: Evaluation, metrics: list[dict[str, Any]]
) -> ReportData:
    """What a run's report shows; `metrics` are those of its epochs."""
    notes = [f"{name} was not measured: {reason}" for name, reason in evaluation.skipped.items()] + evaluation.notes
    return ReportData(
        title=f"{trained.name} on {Path(evaluation.data).name}",
        headline=_headline(evaluation),
        summary=_summary(recipe, trained, evaluation, metrics),
        curves=metrics,
        confusion=Confusion(evaluation.scores.confusion, evaluation.classes) if evaluation.scores.confusion else None,
        gallery=list(gallery(trained, evaluation, recipe, note=notes.append)),
        neurons=_neurons(recipe, trained, evaluation, notes),
        gridpg=grid_scores(evaluation),
        gridpg_remarks=remarks_of(evaluation.gridpg),
        gridpg_n=evaluation.grid_size,
        metrics=metric_scores(evaluation),
        tables=metric_tables(evaluation),
        notes=notes,
    )


def _neurons(recipe: Recipe, trained: TrainedModel, evaluation: Evaluation, notes: list[str]) -> list[NeuronRow]:
    """The strongest channels; a network without maps is no reason to have no report."""
    config, reading = recipe.evaluation, Reading.of(recipe.data)
    if config.neurons == 0:
        return []
    options = NeuronOptions(layer=config.neurons_layer, strongest=config.neurons, scanned=SCANNED_FOR_NEURONS)
    try:
        return neuron_rows(
            trained, evaluation.data, evaluation.split, options, batch_size=config.batch_size, reading=reading
        )
    except BcosError as reason:
        notes.append(f"there are no neurons: {reason}")
        return []


def _selection(recipe: Recipe, metrics: list[dict[str, Any]]) -> dict[str, str]:
    """What the epochs were scored on, and what that chose."""
    if not metrics:
        return {}
    last = metrics[-1]
    role = role_of(last)
    scored = str(last.get("scored", recipe.data.test_split))  # older versions did not say it
    best = next((line["epoch"] for line in reversed(metrics) if line.get("best")), None)
    if best is None or not chooses(recipe):
        return {
            "epochs scored on": scored if role == "val" else f"{scored}, chooses nothing",
            "chosen": "the last epoch",
        }
    chosen = f"epoch {best}, the best" if recipe.train.restore_best else "when to stop; the last epoch"
    return {"epochs scored on": scored, "chosen": f"{chosen}, on {scored}"}


def _headline(evaluation: Evaluation) -> dict[str, str]:
    """Accuracy, and how well and how exactly its decisions are explained."""
    scores = evaluation.scores
    accuracy = "top-1 accuracy" if scores.mean_average_precision is None else "mean average precision"
    headline = {accuracy: _percent(scores.accuracy, 1), "calibration error": _percent(scores.calibration_error, 1)}
    if evaluation.gridpg:
        shown = "bcos" if "bcos" in evaluation.gridpg else next(iter(evaluation.gridpg))
        result = evaluation.gridpg[shown]
        headline[f"GridPG of {shown} (chance {_percent(result.chance or 0, 0)})"] = _percent(result.mean, 1)
    if "completeness" in evaluation.metrics:
        headline["relative residual of explanations"] = f"{evaluation.metrics['completeness']:.1e}".replace("-", "−")
    return headline


def _of_several_labels(scores: Scores) -> dict[str, str]:
    if scores.mean_average_precision is None or scores.f1 is None:
        return {}
    return {"mean average precision": _percent(scores.mean_average_precision), "F1": _percent(scores.f1)}


def _percent(share: float, decimals: int = 2) -> str:
    return f"{100 * share:.{decimals}f} %"


def _summary(
    recipe: Recipe, trained: TrainedModel, evaluation: Evaluation, metrics: list[dict[str, Any]]
) -> dict[str, dict[str, str]]:
    scores = evaluation.scores
    parameters = sum(p.numel() for p in trained.model.parameters())
    options = ", ".join(f"{k}={v}" for k, v in trained.options.items())
    training = {
        "epochs": str(recipe.train.epochs),
        "batch size": str(recipe.train.batch_size),
        "optimizer": f"{recipe.optimizer.name}, learning rate {recipe.optimizer.lr:g}",
        "loss": recipe.train.loss,
        "precision": {"no": "float32"}.get(recipe.train.precision, recipe.train.precision),
        "seed": str(recipe.train.seed),
        **_selection(recipe, metrics),
    }
    if metrics:
        training["images/s"] = f"{sum(m.get('images_per_second', 0) for m in metrics) / len(metrics):,.0f}"
        training["minutes"] = f"{sum(m.get('seconds', 0) for m in metrics) / 60:.1f}"
    return {
        "Model": {"name": trained.name, "options": options or "defaults", "parameters": f"{parameters:,}"},
        "Data": {
            "shards": evaluation.data,
            "split": evaluation.split,
            "images": f"{scores.samples:,}",
            "classes": str(len(evaluation.classes)),
        },
        "Training": training,
        "Scores": {
            "top-1": _percent(scores.top1),
            "top-5": _percent(scores.top5),
            **_of_several_labels(scores),
            "loss": f"{scores.loss:.4f}",
            "calibration error": _percent(scores.calibration_error),
            **{f"GridPG {name}": _percent(result.mean, 1) for name, result in evaluation.gridpg.items()},
        },
    }
