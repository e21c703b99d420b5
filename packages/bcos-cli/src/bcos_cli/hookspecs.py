"""The hooks through which packages add recipes, data sets, losses and commands. Imports no torch."""

from collections.abc import Iterable

import pluggy
import typer

from bcos_cli.spec import DatasetSpec, LossSpec, RecipeSpec

PROJECT = "bcos_cli"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bcos_cli_recipes() -> Iterable[RecipeSpec]:
    """Return the recipes this plugin offers to ``bcos train NAME``."""
    raise NotImplementedError


@hookspec
def bcos_cli_datasets() -> Iterable[DatasetSpec]:
    """Return the data sets this plugin offers to ``bcos shards pack NAME``."""
    raise NotImplementedError


@hookspec
def bcos_cli_losses() -> Iterable[LossSpec]:
    """Return the losses this plugin offers as ``train.loss``."""
    raise NotImplementedError


@hookspec
def bcos_cli_commands(app: typer.Typer) -> None:
    """Add commands to the program. Must be quick and import no torch: do that inside the commands."""
    raise NotImplementedError
