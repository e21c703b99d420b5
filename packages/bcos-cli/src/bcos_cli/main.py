"""The program: commands, and what a mistake looks like. Imports no torch."""

import os
import sys
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from bcos_cli.mistakes import dead_loader
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

_COMMANDS = (
    "demo",
    "shards",
    "train",
    "doctor",
    "convert",
    "eval",
    "explain",
    "maps",
    "neurons",
    "export",
    "serve",
    "recipes",
    "runs",
    "listing",
)
USER_MISTAKE = 2
FAILURE = 1
INTERRUPTED = 130
DEBUG = "BCOS_DEBUG"

given_arguments: ContextVar[list[str]] = ContextVar("bcos_arguments")
"""What the running command was called with, for those that start processes of their own."""


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
    if "--debug" in given:
        os.environ[DEBUG] = "1"  # processes that this one starts inherit it
    sys.exit(run([a for a in given if a != "--debug"], debug=bool(os.environ.get(DEBUG))))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run the program and return its exit status."""
    given_arguments.set(arguments)
    try:
        result = build_app()(arguments, prog_name="bcos", standalone_mode=False)
    except BcosError as mistake:
        return _report(mistake, str(mistake), USER_MISTAKE, debug)
    except KeyboardInterrupt:
        return _report(None, "interrupted", INTERRUPTED, debug)
    except OSError as reason:
        if reason.filename is None or reason.strerror is None:
            return _report_bug(reason, debug)
        return _report(reason, f"cannot use {str(reason.filename)!r}: {reason.strerror}", USER_MISTAKE, debug)
    except Exception as reason:
        message = getattr(reason, "format_message", None)  # click's exceptions, wherever typer takes click from
        if message is not None:
            return _report(reason, _usage(str(message()), arguments), USER_MISTAKE, debug)
        if isinstance(code := getattr(reason, "exit_code", None), int):  # typer.Exit
            return code
        if type(reason).__name__ == "Abort":  # what click makes of an interrupt
            return _report(None, "interrupted", INTERRUPTED, debug)
        if isinstance(reason, RuntimeError) and (dead := dead_loader(reason)) is not None:
            return _report(reason, str(dead), FAILURE, debug)
        return _report_bug(reason, debug)
    if result == INTERRUPTED:
        return _report(None, "interrupted", INTERRUPTED, debug)
    return result if isinstance(result, int) else 0


def _report_bug(reason: Exception, debug: bool) -> int:
    text = f"internal error: {type(reason).__name__}: {reason}"
    hint = "" if debug else "; --debug shows the traceback"
    return _report(reason, " ".join(text.split()) + hint, FAILURE, debug)


def _report(reason: BaseException | None, message: str, status: int, debug: bool) -> int:
    if debug and reason is not None:
        traceback.print_exception(reason)
    rank = os.environ.get("RANK", "0")
    process = "" if rank == "0" else f"[process {rank}] "
    if message:
        print(f"bcos: {process}{message}", file=sys.stderr)  # noqa: T201 - reason: plain, also where rich is not wanted
    return status


def _usage(message: str, arguments: list[str]) -> str:
    """What click says of a mistake, and where help is; nothing where it has printed the help itself."""
    if not message:
        return ""
    message = message.replace("Value error, ", "")
    command = arguments[0] if arguments and arguments[0] in _command_names() else ""
    return f"{message} (see: bcos {command}{' ' if command else ''}--help)"


def _command_names() -> list[str]:
    commands = [c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands]
    return commands + [g.name or "" for g in app.registered_groups]
