"""What the package adds to bcos-cli. Imports no torch: heavy imports are inside the commands."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.hookspecs import hookimpl
from bcos_cli.spec import DatasetSpec, LossSpec, RecipeSpec


@hookimpl
def bcos_cli_recipes() -> Iterable[RecipeSpec]:
    """Return the recipe of the network on the data set of this package."""
    yield RecipeSpec("allconv_stripes", Path(__file__).with_name("allconv_stripes.yaml"), "All-CNN on stripes")


@hookimpl
def bcos_cli_datasets() -> Iterable[DatasetSpec]:
    """Return one data set, which is drawn."""
    yield DatasetSpec("stripes", "bcos_plugin_allconv.stripes:stripes", "stripes of four directions, 400 images")


@hookimpl
def bcos_cli_losses() -> Iterable[LossSpec]:
    """Return one loss."""
    yield LossSpec("focal", "bcos_plugin_allconv.focal_loss:focal", "sigmoid", "focal loss of every class")


@hookimpl
def bcos_cli_commands(app: typer.Typer) -> None:
    """Add one command."""
    app.command()(parameters)


def parameters(model: Annotated[str, typer.Argument(help="Name of a model.")]) -> None:
    """Count the parameters of a model."""
    from bcos_models import create_model

    typer.echo(f"{sum(p.numel() for p in create_model(model).parameters()):,}")
