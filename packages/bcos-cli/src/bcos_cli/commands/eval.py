"""``bcos eval``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import tell
from bcos_core.errors import BcosError

if TYPE_CHECKING:
    from bcos_cli.evaluate.requirements import Condition
    from bcos_cli.evaluate.result import Evaluation, ScoreFiles


@hookimpl
def bcos_cli_commands(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def evaluate(
    run_or_model: Annotated[
        str, typer.Argument(help="Folder of a run, weights file of one, or a model with --weights.")
    ],
    data: Annotated[str | None, typer.Option(help="Folder or URL of shards; those of the run by default.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric that bcos metrics lists; repeatable. By default accuracy, calibration, gridpg, completeness."
        ),
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option(help="For the metrics of explanations; repeatable. Those of the run, or bcos."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Of a metric or explainer: NAME.KEY=VALUE, such as rise.n_masks=1000; repeatable."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="METRIC>=VALUE, such as gridpg/bcos>=0.8; exit status 1 if it does not hold; repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to score on; test by default, val without one.")] = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors file, for a model by name.")] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Annotations of photographs, a COCO file or VOC files, instead of shards; for the metric epg."
        ),
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of the annotated photographs.")] = None,
    images: Annotated[
        int | None, typer.Option(help="Images for metrics of single images, spread over the split.", min=1)
    ] = None,
    grids: Annotated[int | None, typer.Option(help="Grids of the pointing games.", min=1)] = None,
    grid_size: Annotated[int | None, typer.Option(help="Images along a side of a grid.", min=2)] = None,
    smooth: Annotated[int | None, typer.Option(help="Side of the mean filter over maps, odd.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images classified at a time.", min=1)] = None,
    explain_batch: Annotated[
        int | None, typer.Option(help="Images, or grids, explained at a time; halved if memory runs out.", min=1)
    ] = None,
    workers: Annotated[int, typer.Option(help="Loader processes.", min=0)] = 2,
    on_error: Annotated[
        Literal["stop", "skip"] | None,
        typer.Option(help="What a damaged image or shard does; as in the run, or stop."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all values to this file.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for scores.csv and scores.json, and for what a killed evaluation goes on with."),
    ] = None,
    trust_run: TrustRun = False,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
) -> None:
    """Score a network and its explanations on a split.

    For a run's folder, evaluation.json and report.html are renewed. A killed evaluation goes on where it was. Exit
    status 1 if contributions do not add up to the logits, or a --require does not hold.
    """
    trust_runs(trust_run)
    from bcos_cli.evaluate.arguments import parse_arguments, refuse_with_photos

    if (boxes is None) != (photos is None):
        raise BcosError("--boxes and --photos go together: annotations, and the folder of the images they are of")
    given = parse_arguments(
        metrics=metric,
        options=option,
        require=require,
        explainers=tuple(explainer or ()),
        split=split,
        images=images,
        grids=grids,
        grid_size=grid_size,
        smooth=smooth,
        batch_size=batch_size,
        explain_batch=explain_batch,
        workers=workers,
    )
    if boxes is not None:
        refuse_with_photos(data=data, split=split, images=images, grids=grids, grid_size=grid_size, on_error=on_error)
    if num_processes > 1:
        from bcos_cli.processes.launcher import launch

        launch(num_processes)
        return

    from bcos_cli.evaluate.result import ScoreFiles

    files = ScoreFiles(json_file, out)
    if boxes is not None and photos is not None:
        evaluation = _evaluate_photos(run_or_model, boxes, photos, given, weights, files)
    else:
        from bcos_cli.explain.loaded_model import reading_of
        from bcos_cli.runs.evaluation import evaluate_run

        if on_error is not None:
            given["reading"] = replace(reading_of(run_or_model, data), skip=on_error == "skip")
        evaluation = evaluate_run(run_or_model, given, data=data, weights=weights, files=files)
    _pass_or_fail(evaluation, given.get("require", ()), metric or [])


def _evaluate_photos(
    run_or_model: str, boxes: Path, photos: Path, given: dict[str, Any], weights: str | None, files: "ScoreFiles"
) -> "Evaluation":
    """Score explanations of annotated photographs."""
    from bcos_cli.evaluate.evaluation import evaluate_photos
    from bcos_cli.evaluate.options import EvaluationOptions
    from bcos_cli.evaluate.table import print_evaluation
    from bcos_cli.explain.loaded_model import load_trained
    from bcos_cli.processes.group import process_state

    files.check()
    options = EvaluationOptions(**{"metrics": ("epg",), **given})
    trained = load_trained(run_or_model, weights)
    evaluation = evaluate_photos(trained, boxes, photos, options, name=run_or_model, partial=files.partial)
    if process_state().is_main_process:
        files.write(evaluation)
        print_evaluation(evaluation)
    return evaluation


def _pass_or_fail(evaluation: "Evaluation", conditions: "Sequence[Condition]", metrics: list[str]) -> None:
    """End every process, with status 1 if the network does not pass."""
    from bcos_cli.evaluate.requirements import failures
    from bcos_cli.processes.group import leave, process_state

    state = process_state()
    reasons = failures(evaluation, conditions, metrics) if state.is_main_process else []
    state.wait_for_everyone()  # a process that ends makes the launcher end the others
    leave()
    for reason in reasons:
        tell(reason)
    if reasons:
        raise typer.Exit(1)
