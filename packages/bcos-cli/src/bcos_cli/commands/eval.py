"""``bcos eval``."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def evaluate(
    run_or_model: Annotated[
        str, typer.Argument(help="Folder of a run, weights file of one, or a model with --weights.")
    ],
    data: Annotated[str | None, typer.Option(help="Folder or URL of shards; those of the run by default.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric that bcos metrics lists; repeatable. All by default.")
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option(help="For the metrics of explanations; repeatable. Those of the run, or bcos."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to score on; test by default.")] = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors file, for a model by name.")] = None,
    grids: Annotated[int | None, typer.Option(help="Grids of the pointing game.", min=1)] = None,
    grid_size: Annotated[int | None, typer.Option(help="Images along a side of a grid.", min=2)] = None,
    smooth: Annotated[int | None, typer.Option(help="Side of the mean filter over maps, odd.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Loader processes.", min=0)] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all values to this file.")] = None,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
) -> None:
    """Score a network and its explanations on a split.

    For a run's folder, evaluation.json and report.html are renewed.
    """
    from bcos_cli.metrics import check_metrics

    metrics = check_metrics(metric or [])
    if num_processes > 1:
        from bcos_cli.launch import launch

        launch(num_processes)
        return

    from bcos_cli.processes import leave
    from bcos_cli.reporting import evaluate_run

    options = {
        "split": split,
        "explainers": tuple(explainer) if explainer else None,
        "batch_size": batch_size,
        "grids": grids,
        "grid_size": grid_size,
        "smooth": smooth,
    }
    given = {name: value for name, value in options.items() if value is not None}
    evaluate_run(run_or_model, data, weights, json_file, {**given, "metrics": tuple(metrics), "workers": workers})
    leave()
