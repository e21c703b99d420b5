"""``bcos demo``."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("bcos-demo"),
    overrides: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="key=value of the recipe digits; repeatable.")
    ] = None,
) -> None:
    """Do the whole job on built-in digits.

    Pack shards, train, evaluate, explain. Takes under two minutes on two cores.
    """
    from bcos_cli.demo import run_demo

    run_demo(out, overrides or [])
