"""The program: its commands, exit status and error messages. Imports no torch."""

import errno
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import cache
from importlib.metadata import version
from inspect import cleandoc
from itertools import pairwise
from typing import Annotated, TextIO

import typer

from bcos_cli.messages import say, tell, tell_traceback
from bcos_cli.processes import given_arguments
from bcos_cli.processes.signals import CLOSED_PIPE, INTERRUPTED
from bcos_cli.processes.torch_errors import dead_loader
from bcos_core.errors import BcosError
from bcos_core.plugins import implementations, is_ours

USER_MISTAKE = 2
FAILURE = 1
DEBUG = "BCOS_DEBUG"
COMPLETION = "_BCOS_COMPLETE"
"""Set by a shell that asks how a command line goes on."""

_own_commands: list[str] = []


def _print_version(wanted: bool) -> None:
    if wanted:
        for package in ("bcos-cli", "bcos-core", "bcos-models", "bcos-explain"):
            say(f"{package} {version(package)}")
        raise typer.Exit


def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Train, score and explain B-cos networks."""


@cache
def build_app() -> typer.Typer:
    """Return the program with our commands and those of plugins."""
    app = typer.Typer(
        name="bcos",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # whose tables cut off the names of options, and give switches a type
        help="Train, score and explain B-cos networks: classifiers whose every decision is exactly a linear "
        "map of the input.",
        epilog="--debug, anywhere, shows the traceback of an error.",
    )
    app.callback()(program)
    _add_commands(app)
    _give_whole_summaries(app)
    return app


def _add_commands(to: typer.Typer) -> None:
    """Add every command, ours and those of plugins, through the hook that both implement."""
    from bcos_cli.plugins import manager, plugins

    for implementation in implementations(manager().hook.bcos_cli_commands, plugins()):
        with plugins().using(implementation.plugin_name):
            theirs = _commands_of(implementation.function, _command_names(to))
            to.registered_commands += theirs.registered_commands
            to.registered_groups += theirs.registered_groups
            if is_ours(implementation.plugin_name):
                _own_commands.extend(_command_names(theirs))


def _give_whole_summaries(to: typer.Typer) -> None:
    """Let lists of commands show the first paragraph of each one's help, of which click would cut off the end."""
    for command in to.registered_commands:
        text = command.help or getattr(command.callback, "__doc__", None) or ""
        command.short_help = command.short_help or " ".join(cleandoc(text).split("\n\n")[0].split())
    for _, group in _groups(to):
        _give_whole_summaries(group)


def _commands_of(hook: Callable[..., object], taken: Sequence[str]) -> typer.Typer:
    """Return the commands of a plugin, all of which can be used; none has a name that is taken."""
    theirs = typer.Typer(add_completion=False)
    hook(app=theirs)
    names = _command_names(theirs)
    if not names:
        raise BcosError("its hook bcos_cli_commands adds no command; add them to the app that it is given")
    for name in names:
        if name in taken or names.count(name) > 1:
            raise BcosError(f"the command {name!r} is already registered; choose another name")
    typer.main.get_command(theirs)  # raises what would keep the program from starting
    return theirs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit.

    0, or 2 for a user's mistake, 1 for a failure, 130 when interrupted, 141 when nobody reads the output to its end.
    """
    _open_streams()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that cannot be written
    given = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETION in os.environ:
        typer.main.get_command(build_app()).main([], prog_name="bcos")  # answers, and exits
    if "--debug" in given:
        os.environ[DEBUG] = "1"  # processes that this one starts inherit it
    sys.exit(run([a for a in given if a != "--debug"], debug=bool(os.environ.get(DEBUG))))


def _open_streams() -> None:
    """Let streams that the caller has closed go nowhere: a file that is opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.dup(number), "r" if number == 0 else "w"))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run the program and return its exit status."""
    return copy_context().run(_run, arguments, debug)  # what a command sets, such as --trust-run, ends with it


def _run(arguments: list[str], debug: bool) -> int:
    given_arguments.set(arguments)
    try:
        status = _invoke(arguments)
        sys.stdout.flush()  # while a closed pipe can still be told
    except BcosError as mistake:
        return _report(mistake, str(mistake), USER_MISTAKE, debug)
    except KeyboardInterrupt as interrupt:
        return _report(None, " ".join(["interrupted", *map(str, interrupt.args)]), INTERRUPTED, debug)
    except SystemExit as reason:
        if isinstance(reason.__context__, BrokenPipeError):  # of rich, which shows help
            return CLOSED_PIPE
        if not arguments or arguments[0] in _own_commands:  # no command of ours exits by itself
            return _report_bug(reason, debug)
        raise
    except OSError as reason:
        if isinstance(reason, BrokenPipeError) and _discard_unread():
            return CLOSED_PIPE
        if reason.errno == errno.ENOSPC and reason.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail at the end again
            return _report(reason, "cannot write to standard output: no space is left there", USER_MISTAKE, debug)
        if reason.filename is None or reason.strerror is None:
            return _report_bug(reason, debug)
        return _report(reason, f"cannot use {str(reason.filename)!r}: {reason.strerror}", USER_MISTAKE, debug)
    except Exception as reason:
        message = getattr(reason, "format_message", None)  # click's exceptions, wherever typer takes click from
        if message is not None:
            return _report(reason, _usage(str(message()), arguments), USER_MISTAKE, debug)
        if isinstance(code := getattr(reason, "exit_code", None), int):  # typer.Exit
            status = code
        elif type(reason).__name__ == "Abort":  # what click makes of an interrupt while it asks something
            status = INTERRUPTED
        elif isinstance(reason, RuntimeError) and (dead := dead_loader(reason)) is not None:
            return _report(reason, str(dead), FAILURE, debug)
        else:
            return _report_bug(reason, debug)
    return _report(None, "interrupted", INTERRUPTED, debug) if status == INTERRUPTED else status


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(build_app())
    if arguments and arguments[0] in _own_commands:
        _refuse_empty(arguments)
    # click's own main would turn an interrupt into an exit, and lose what was interrupted
    with command.make_context("bcos", list(arguments)) as context:
        result = command.invoke(context)
    return result if isinstance(result, int) else 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse empty and blank arguments: as a path, one would mean the current folder."""
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if value.strip() or (option and not equals):
            continue
        what = option or (before if before.startswith("-") and before.strip("-") else f"the argument after {before!r}")
        raise BcosError(f"{what} is empty, got {value!r}; give a value, for this folder '.', or leave it out")


def _discard_unread() -> bool:
    """Discard the rest of what is written to where nobody reads any more, as after ``| head``; whether there is such.

    Flushing would not show it: what could not be written may be gone already.
    """
    closed = [stream.fileno() for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
    for number in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return bool(closed)


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe, or a socket, that has no reader."""
    try:
        poll = select.poll()
        poll.register(stream, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # a stream in memory has no reader to lose
        return False


def _report_bug(reason: BaseException, debug: bool) -> int:
    text = f"internal error: {type(reason).__name__}: {reason}"
    hint = "" if debug else "; --debug shows the traceback"
    return _report(reason, " ".join(text.split()) + hint, FAILURE, debug)


def _report(reason: BaseException | None, message: str, status: int, debug: bool) -> int:
    if debug and reason is not None:
        tell_traceback(reason)
    if message:
        with suppress(BrokenPipeError):  # nobody reads it
            tell(message)
        _discard_unread()
    return status


def _usage(message: str, arguments: list[str]) -> str:
    """Return click's message about a mistake, and where to find help; nothing where it has printed the help."""
    if not message:
        return ""
    message = message.replace("Value error, ", "")
    if arguments and message.startswith(f"No such command '{arguments[0]}'") and "Did you mean" not in message:
        found = [
            f"bcos {name} {arguments[0]}" for name, of in _groups(build_app()) if arguments[0] in _command_names(of)
        ]
        message += f" Did you mean: {' or '.join(found)}?" if found else ""
    command = arguments[0] if arguments and arguments[0] in _command_names(build_app()) else ""
    return f"{message} (see: bcos {command}{' ' if command else ''}--help)"


def _groups(of: typer.Typer) -> list[tuple[str, typer.Typer]]:
    """Return the groups of commands, by name."""
    groups = [
        (typer.main.solve_typer_info_defaults(group).name, group.typer_instance) for group in of.registered_groups
    ]
    return [(name, group) for name, group in groups if name and group is not None]


def _command_names(of: typer.Typer) -> list[str]:
    callbacks = [(c.name, getattr(c.callback, "__name__", "")) for c in of.registered_commands]
    names = [name or typer.main.get_command_name(function) for name, function in callbacks]
    for group in of.registered_groups:
        if name := typer.main.solve_typer_info_defaults(group).name:
            names.append(name)
        elif group.typer_instance is not None:  # without a name, typer puts its commands beside the others
            names += _command_names(group.typer_instance)
    return names
