"""The end of a run: scores, a gallery, ``report.html`` and a table in the terminal."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bcos_cli import console
from bcos_cli.config import Loss, Recipe, load_recipe
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.metrics import check_metrics
from bcos_cli.pictures import as_floats, smoothing
from bcos_cli.processes import process_state
from bcos_cli.scoring import Evaluation, ScoringOptions, score
from bcos_cli.trained import TrainedModel, load_trained
from bcos_cli.training.engine import TrainingResult
from bcos_cli.training.folder import RunFolder
from bcos_core import explain
from bcos_core.errors import BcosError
from bcos_explain import explanation_image
from bcos_explain.report import Confusion, GalleryItem, ReportData, write_report


def finish_run(result: TrainingResult, recipe: Recipe, out: Path) -> Evaluation:
    """Score a trained network as its recipe says, and write ``evaluation.json`` and ``report.html``."""
    evaluation = score(result.trained, result.data, scoring_options(recipe), index=result.index, name=str(out))
    _write_run(RunFolder(out), recipe, result.trained, evaluation)
    return evaluation


def evaluate_run(
    run_or_model: str,
    data: str | None,
    weights: str | None,
    json_file: Path | None,
    given: dict[str, Any],
) -> Evaluation:
    """Score what a user names; for a run's folder on its own test split, renew its evaluation and report.

    Args:
        run_or_model: as :func:`bcos_cli.trained.load_trained` takes it.
        data: shards; None for those of the run.
        weights: of a model by name.
        json_file: for all values.
        given: fields of :class:`ScoringOptions` that replace those of the run's recipe.

    Raises:
        BcosError: nothing of that name, no shards, or an unknown metric or explainer.
    """
    trained = load_trained(run_or_model, weights)
    folder = RunFolder(Path(run_or_model))
    recipe = load_recipe(str(folder.config)) if folder.config.exists() else None
    location = data or (recipe.data.path if recipe else None)
    if location is None:
        raise BcosError("there are no data to score on; give a folder of shards with --data")
    if recipe is None:
        loss: Loss = "cross_entropy" if trained.probabilities == "softmax" else "bce"
        options = ScoringOptions(loss=loss, **given)
    else:
        options = scoring_options(recipe, **given)
    evaluation = score(trained, location, options, name=run_or_model)
    if not process_state().is_main_process:
        return evaluation
    if json_file is not None:
        evaluation.save(json_file)
    if recipe is not None and location == recipe.data.path and _is_full(options, recipe):
        _write_run(folder, recipe, trained, evaluation)
    else:
        show(evaluation)
    return evaluation


def scoring_options(recipe: Recipe, **given: Any) -> ScoringOptions:
    """What a recipe says about scoring, with some values replaced."""
    config = recipe.evaluation
    values: dict[str, Any] = {
        "split": recipe.data.test_split,
        "metrics": tuple(check_metrics([])),
        "explainers": tuple(config.explainers),
        "batch_size": config.batch_size,
        "workers": recipe.data.workers,
        "grids": config.gridpg_grids,
        "grid_size": config.gridpg_size,
        "smooth": config.gridpg_smooth,
        "seed": recipe.train.seed,
        "loss": recipe.train.loss,
    }
    return ScoringOptions(**{**values, **given})


def _is_full(options: ScoringOptions, recipe: Recipe) -> bool:
    """Whether these scores are what a run's report shows: its own split, every metric, as many grids or more."""
    config = recipe.evaluation
    return (
        options.split == recipe.data.test_split
        and set(options.metrics) == set(check_metrics([]))
        and set(options.explainers) >= set(config.explainers)
        and options.grids >= config.gridpg_grids
        and (options.grid_size, options.smooth) == (config.gridpg_size, config.gridpg_smooth)
    )


def show(evaluation: Evaluation) -> None:
    """Print the scores as a table."""
    shares = ("top1", "top5", "calibration_error")
    rows = []
    for name, value in evaluation.metrics.items():
        is_share = name in shares or name.startswith("gridpg")
        rows.append((name, f"{value:.2%}" if is_share else f"{value:.4g}"))
    if evaluation.gridpg:
        first = next(iter(evaluation.gridpg.values()))
        rows.append((f"gridpg by chance ({evaluation.grid_size}×{evaluation.grid_size})", f"{first.chance:.2%}"))
    rows += [(name, f"not measured: {reason}") for name, reason in evaluation.skipped.items()]
    title = f"{evaluation.model} on {evaluation.scores.samples:,} images of {evaluation.data} ({evaluation.split})"
    console.table(title, ["metric", "value"], rows)


def _write_run(folder: RunFolder, recipe: Recipe, trained: TrainedModel, evaluation: Evaluation) -> None:
    """Write a run's evaluation and report, and say where they are."""
    if not process_state().is_main_process:
        return
    evaluation.save(folder.evaluation)
    metrics = folder.read_metrics()
    data = ReportData(
        title=f"{trained.name} on {Path(evaluation.data).name}",
        summary=_summary(recipe, trained, evaluation, metrics),
        curves=metrics,
        confusion=Confusion(evaluation.scores.confusion, evaluation.classes),
        gallery=list(gallery(trained, evaluation, recipe)),
        gridpg={name: result.scores for name, result in evaluation.gridpg.items()},
        gridpg_n=evaluation.grid_size,
        notes=[f"{name} was not measured: {reason}" for name, reason in evaluation.skipped.items()],
    )
    write_report(folder.report, data)
    show(evaluation)
    console.out.print(f"run     {folder.path}\nweights {folder.weights}\nreport  {folder.report}")


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
    }
    if metrics:
        training["images/s"] = f"{sum(m['images_per_second'] for m in metrics) / len(metrics):,.0f}"
        training["minutes"] = f"{sum(m['seconds'] for m in metrics) / 60:.1f}"
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
            "top-1": f"{scores.top1:.2%}",
            "top-5": f"{scores.top5:.2%}",
            "loss": f"{scores.loss:.4f}",
            "calibration error": f"{scores.calibration_error:.2%}",
            **{f"GridPG {name}": f"{result.mean:.1%}" for name, result in evaluation.gridpg.items()},
        },
    }


def gallery(trained: TrainedModel, evaluation: Evaluation, recipe: Recipe) -> Iterable[GalleryItem]:
    """Explain the first images of each class in the split: not chosen, right or wrong."""
    import torch

    config = recipe.evaluation
    if config.gallery_per_class == 0:
        return
    chosen = _first_of_each_class(evaluation, trained, config.gallery_per_class, config.gallery_classes)
    if not chosen:
        return
    images = torch.stack([image for image, _ in chosen])
    for start in range(0, len(images), config.batch_size):
        part = images[start : start + config.batch_size]
        explanation = explain(trained.model, trained.encode(part.to(process_state().device)))
        probabilities = trained.confidences(explanation.logits)
        for i, image in enumerate(part):
            k = int(explanation.target[i])
            x, weight = explanation.input[i], explanation.weight[i]
            yield GalleryItem(
                input=as_floats(image.permute(1, 2, 0).numpy()),
                explanation=explanation_image(x, weight, smooth=smoothing(x.shape[-1])),
                map=explanation.map[i].cpu().numpy(),
                true_class=evaluation.classes[chosen[start + i][1]],
                predicted_class=evaluation.classes[k],
                confidence=float(probabilities[i, k]),
                logit=float(explanation.score[i]),
                bias=float(explanation.bias[i]),
            )


def _first_of_each_class(
    evaluation: Evaluation, trained: TrainedModel, per_class: int, classes: int
) -> list[tuple[Any, int]]:
    """(8-bit image, label) of the first images of the first classes, by class."""
    batches = make_batches(evaluation.data, load_index(evaluation.data), evaluation.split, trained.input, batch_size=64)
    wanted = min(classes, len(evaluation.classes))
    found: dict[int, list[Any]] = {label: [] for label in range(wanted)}
    for images, labels, _ in batches.epoch(0):
        for image, label in zip(images, labels.tolist(), strict=True):
            if label in found and len(found[label]) < per_class:
                found[label].append(image)
        if all(len(images) == per_class for images in found.values()):
            break
    return [(image, label) for label, images in found.items() for image in images]
