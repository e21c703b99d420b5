"""The report of a run: what ``report.html`` shows."""

import math
import shlex
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from bcos_cli.config import Recipe
from bcos_cli.console import rate
from bcos_cli.data.reading import Reading
from bcos_cli.evaluate.gallery import Choice, gallery
from bcos_cli.evaluate.metrics import CLASSIFICATION, describe, format_value
from bcos_cli.evaluate.result import Evaluation
from bcos_cli.explain.neurons import NeuronOptions, neuron_rows
from bcos_cli.processes import given_arguments
from bcos_cli.train.best_epoch import accuracy_of, measure_of, role_of
from bcos_cli.train.validation_split import chooses
from bcos_core.errors import BcosError
from bcos_explain import explainer_specs
from bcos_explain.report import Confusion, MetricScores, NeuronRow, ReportData, Table
from bcos_models import TrainedModel

SCANNED_FOR_NEURONS = 2000
"""Images at the start of the split in which the report looks for the most activating ones."""
_TERMS = {
    **{name: metric.label for name, metric in CLASSIFICATION.items()},
    "gridpg": "GridPG",
    "completeness": "relative residual (completeness)",
    "image_share": "image share",
}
"""Names of metrics in a report, where they differ."""


def report_data(
    recipe: Recipe, trained: TrainedModel, evaluation: Evaluation, epochs: list[dict[str, Any]]
) -> ReportData:
    """Return what a run's report shows; `epochs` are the lines of its ``metrics.jsonl``."""
    notes = [f"{name} was not measured: {reason}" for name, reason in evaluation.skipped.items()] + evaluation.notes
    own = [(name, by[""]) for name, by in evaluation.explanations.items() if "" in by]
    tables = [
        Table(
            title="Metrics of the network's own explanation",
            columns=("metric", "mean", "median", "lowest tenth", "deviation", "scores"),
            rows=[
                (name, result.mean, result.median, result.quantile(0.1), result.std, result.count)
                for name, result in own
            ],
        )
    ]
    choice = Choice.of(evaluation, recipe.evaluation)
    return ReportData(
        title=f"{_network(trained)} on {Path(evaluation.data).name}",
        headline=_headline(evaluation),
        summary=_summary(recipe, trained, evaluation, epochs),
        curves=epochs,
        confusion=Confusion(evaluation.scores.confusion, evaluation.classes) if evaluation.scores.confusion else None,
        gallery=list(gallery(choice, trained, evaluation, recipe, note=notes.append)),
        gallery_note=choice.text,
        neurons=_neurons(recipe, trained, evaluation, notes),
        gridpg=evaluation.gridpg,
        metrics=_metric_scores(evaluation),
        tables=tables if own else [],
        terms=_terms(recipe, trained, evaluation),
        notes=notes,
    )


def _headline(evaluation: Evaluation) -> dict[str, str]:
    """Return accuracy, and how well, how exactly and how far decisions are explained."""
    scores = evaluation.scores
    accuracy = "top-1 accuracy" if scores.mean_average_precision is None else "mean average precision"
    accuracy += f" on {evaluation.split}"
    headline = {accuracy: _percent(scores.accuracy, 2), "calibration error": _percent(scores.calibration_error, 1)}
    if evaluation.gridpg:
        shown = "bcos" if "bcos" in evaluation.gridpg else next(iter(evaluation.gridpg))
        result = evaluation.gridpg[shown]
        headline[f"GridPG of {shown} (chance {_percent(result.chance or 0, 0)})"] = _percent(result.mean, 1)
    if "completeness" in evaluation.metrics:
        headline["relative residual of explanations"] = f"{evaluation.metrics['completeness']:.1e}".replace("-", "−")
    for name in ("image_share", "cancellation"):
        if name in evaluation.metrics:
            headline[f"median {_TERMS.get(name, name)}"] = _percent(evaluation.metrics[name], 1)
    return headline


def _percent(share: float, decimals: int) -> str:
    return "undefined" if math.isnan(share) else f"{100 * share:.{decimals}f} %"


def _summary(
    recipe: Recipe, trained: TrainedModel, evaluation: Evaluation, epochs: list[dict[str, Any]]
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
        **_selection(recipe, epochs),
    }
    if epochs:
        training["images/s"] = rate(sum(m.get("images_per_second", 0) for m in epochs) / len(epochs))
        training["minutes"] = f"{sum(m.get('seconds', 0) for m in epochs) / 60:.1f}"
    values = {name: getattr(scores, name) for name in CLASSIFICATION}
    return {
        "Model": {"name": _network(trained), "options": options or "defaults", "parameters": f"{parameters:,}"},
        "Data": {
            "shards": evaluation.data,
            "split": evaluation.split,
            "images": f"{scores.samples:,}",
            "classes": str(len(evaluation.classes)),
        },
        "Training": training,
        "Scores": {
            **{CLASSIFICATION[m].label: format_value(m, value) for m, value in values.items() if value is not None},
            **{
                f"{CLASSIFICATION[m].label}, 95 % interval": " to ".join(format_value(m, end) for end in ends)
                for m, ends in scores.intervals.items()
                if values.get(m) is not None and not math.isnan(ends[0])
            },
            **{f"GridPG {name}": format_value("gridpg", result.mean) for name, result in evaluation.gridpg.items()},
        },
        "Made": _origin(),
    }


def _network(trained: TrainedModel) -> str:
    """Name of a network; of one of another library, whether it was converted."""
    if "/" not in trained.name:
        return trained.name
    return f"{trained.name}, {'as it is' if trained.options.get('as_is') else 'converted'}"


def _selection(recipe: Recipe, epochs: list[dict[str, Any]]) -> dict[str, str]:
    """Return what the epochs were scored on, and what that chose."""
    if not epochs:
        return {}
    last, most = epochs[-1], max(epochs, key=accuracy_of)
    scored = str(last.get("scored", recipe.data.test_split))  # older versions did not record it
    chosen = next((line["epoch"] for line in reversed(epochs) if line.get("best")), None)
    is_best = chosen is not None and chooses(recipe) and recipe.train.restore_best
    chose = ", which say when to stop" if recipe.early_stopping else ""
    averaged = " (averaged weights)" if any(key.startswith("ema_") for key in last) else ""
    name = "accuracy" if measure_of(last) == "top1" else "mean average precision"
    return {
        "weights scored here": f"epoch {chosen}, the best on {scored}"
        if is_best
        else f"epoch {last['epoch']}, the last",
        "epochs scored on": scored + (chose if role_of(last) == "val" else ", which chooses nothing"),
        "last epoch": f"{name} {_percent(accuracy_of(last), 2)}{averaged}",
        "best epoch": f"{name} {_percent(accuracy_of(most), 2)}, epoch {most['epoch']}",
    }


def _origin() -> dict[str, str]:
    """Return when and by what the report was made."""
    packages = ("bcos-cli", "bcos-core", "bcos-models", "bcos-explain", "torch", "timm")
    command = given_arguments.get(None)
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "command": shlex.join(["bcos", *command]) if command is not None else "none: a program that calls bcos_cli",
        "versions": ", ".join([*(f"{name} {version(name)}" for name in packages), f"Python {python_version()}"]),
    }


def _terms(recipe: Recipe, trained: TrainedModel, evaluation: Evaluation) -> dict[str, str]:
    """Return the meaning of the words of a report, for readers who know neither B-cos networks nor the metrics."""
    alone = (
        ""
        if trained.probabilities == "softmax"
        else ("; each class is judged on its own, so that those of all classes need not add up to 100 %")
    )
    shown = [name for name in CLASSIFICATION if getattr(evaluation.scores, name) is not None]
    measured = [*shown, *(name for name in evaluation.explanations if name not in shown)]
    used = dict.fromkeys(["bcos", *recipe.evaluation.explainers, *evaluation.gridpg])
    return {
        "logit": "what the network computes for a class, before it becomes a probability",
        "confidence": f"probability of the predicted class{alone}",
        "W(x)": "the network is a linear map W(x)·x + b(x) of the image x, and depends on it; the picture of W shows "
        "the colours that the network looks for",
        "contribution": "what a pixel adds to the logit, W(x)·x: red for the class, blue against it",
        "bias": "the part b(x) of the logit that does not come from the image",
        "receipt": "logit = contributions + bias; it adds up where what is left over, the residual, is rounding",
        **{_TERMS.get(m, m): describe(m).summary for m in measured},
        **{spec.name: f"explainer: {spec.summary}" for spec in explainer_specs() if spec.name in used},
    }


def _neurons(recipe: Recipe, trained: TrainedModel, evaluation: Evaluation, notes: list[str]) -> list[NeuronRow]:
    """Return the strongest channels; a network without feature maps still gets a report."""
    config, reading = recipe.evaluation, Reading.of(recipe.data)
    if config.neurons == 0:
        return []
    options = NeuronOptions(layer=config.neurons_layer, strongest=config.neurons, scanned=SCANNED_FOR_NEURONS)
    try:
        return neuron_rows(
            trained, evaluation.data, evaluation.split, options, batch_size=config.batch_size, reading=reading
        )
    except BcosError as reason:
        notes.append(f"neurons are not shown: {reason}")
        return []


def _metric_scores(evaluation: Evaluation) -> list[MetricScores]:
    """Return the metrics measured for each explainer, except the grid pointing game."""
    shown = []
    for name, results in evaluation.explanations.items():
        if name != "gridpg" and "" not in results:
            scores = MetricScores(title=name, results=results)
            summary, better = describe(name).summary, scores.higher_is_better
            direction = "" if better is None else f"; {'higher' if better else 'lower'} is better"
            shown.append(replace(scores, description=f"{summary[:1].upper()}{summary[1:]}{direction}."))
    return shown
