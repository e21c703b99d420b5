"""``bcos train``."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a name that bcos recipes lists.")],
    data: Annotated[str | None, typer.Option(help="Folder or URL of shards.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", help="key=value, such as train.epochs=5; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine; one a GPU.", min=1)] = 1,
) -> None:
    """Train a network and write its folder: weights, metrics, checkpoints, evaluation, report.html."""
    from bcos_cli.config import load_recipe

    loaded = load_recipe(recipe, overrides, data=data)
    folder = out or Path("runs") / Path(recipe).stem
    if num_processes > 1:
        from bcos_cli.launch import launch

        launch(num_processes)
        return

    from bcos_cli.processes import leave
    from bcos_cli.reporting import finish_run
    from bcos_cli.training.engine import train as run_training

    finish_run(run_training(loaded, folder, resume=resume), loaded, folder)
    leave()
