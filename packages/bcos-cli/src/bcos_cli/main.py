"""The program: commands, and what a mistake looks like. Imports no torch."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from bcos_core.errors import BcosError

app = typer.Typer(
    name="bcos",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, score and explain B-cos networks: classifiers whose every decision is exactly a linear "
    "map of the input.",
    epilog="--debug, anywhere, shows the traceback of an error.",
)

_COMMANDS = ("demo", "shards", "train", "eval", "explain", "listing")
USER_MISTAKE = 2
FAILURE = 1
INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        for package in ("bcos-cli", "bcos-core", "bcos-models", "bcos-explain"):
            typer.echo(f"{package} {version(package)}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit."),
    ] = False,
) -> None:
    """Train, score and explain B-cos networks."""


def build_app() -> typer.Typer:
    """Return the program with our commands and those of plugins."""
    if not app.registered_commands and not app.registered_groups:
        for name in _COMMANDS:
            import_module(f"bcos_cli.commands.{name}").register(app)
        _add_plugin_commands(app)
    return app


def _add_plugin_commands(to: typer.Typer) -> None:
    from bcos_cli.plugins import manager, plugins

    for implementation in manager().hook.bcos_cli_commands.get_hookimpls():
        try:
            implementation.function(app=to)
        except Exception as reason:  # a stranger's hook may raise anything
            plugins().mark_broken(implementation.plugin_name, f"{type(reason).__name__}: {reason}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0, or 2 for a user's mistake, 1 for a failure, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or bool(os.environ.get("BCOS_DEBUG"))
    sys.exit(run([a for a in given if a != "--debug"], debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run the program and return its exit status."""
    try:
        result = build_app()(arguments, prog_name="bcos", standalone_mode=False)
    except BcosError as mistake:
        return _report(mistake, str(mistake), USER_MISTAKE, debug)
    except KeyboardInterrupt:
        return _report(None, "interrupted", INTERRUPTED, debug)
    except Exception as reason:
        message = getattr(reason, "format_message", None)  # click's exceptions, wherever typer takes click from
        if message is not None:
            return _report(reason, f"{message()} (bcos {_command(arguments)}--help)", USER_MISTAKE, debug)
        if isinstance(code := getattr(reason, "exit_code", None), int):  # typer.Exit
            return code
        text = f"internal error: {type(reason).__name__}: {reason}"
        hint = "" if debug else "; --debug shows the traceback"
        return _report(reason, " ".join(text.split()) + hint, FAILURE, debug)
    return result if isinstance(result, int) else 0


def _report(reason: BaseException | None, message: str, status: int, debug: bool) -> int:
    if debug and reason is not None:
        traceback.print_exception(reason)
    rank = os.environ.get("RANK", "0")
    process = "" if rank == "0" else f"[process {rank}] "
    print(f"bcos: {process}{message}", file=sys.stderr)  # noqa: T201 - reason: plain, also where rich is not wanted
    return status


def _command(arguments: list[str]) -> str:
    return f"{arguments[0]} " if arguments and not arguments[0].startswith("-") else ""
