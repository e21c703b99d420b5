"""Guard around code of plugins: it cannot end the program, write into its output or hang unnamed. Imports no torch."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from types import FrameType

from bcos_core.errors import BcosError, first_line
from bcos_core.process_setting import ProcessSetting
from bcos_core.text import printable

PATIENCE = 5.0
"""Seconds after which a plugin that is still being loaded is named."""

_NO_MEMORY = "not enough memory"
"""What torch says, in a RuntimeError, on the CPU."""

OURS = frozenset({"bcos_core", "bcos_models", "bcos_explain", "bcos_cli"})
"""This project's packages."""


class PluginError(BcosError):
    """Code of a plugin failed, or gave something else than its hook or its description promises; it is named."""


class PluginExitError(PluginError):
    """Code of a plugin tried to end the program, such as by SystemExit, which is the cause of this error."""


def error_summary(reason: BaseException) -> str:
    """Type and first line of an error that code of a plugin raised."""
    said = reason.__cause__ if isinstance(reason, PluginExitError) and reason.__cause__ else reason
    package = (said.name or "").partition(".")[0] if isinstance(said, ImportError) else ""
    moved = f"; modules have moved: CHANGELOG.md of {package.replace('_', '-')} says where" if package in OURS else ""
    return f"{type(said).__name__}: {printable(first_line(said))}{moved}"


@contextmanager
def plugin_guard(what: str, *, loading: bool = True) -> Iterator[None]:
    """Run code of a plugin. Exceptions that are errors pass through.

    Args:
        what: runs, for messages: ``"the plugin zoo:a"``.
        loading: whether it is only loaded, which should be quick and print nothing: what it prints goes to
            standard error, and after :data:`PATIENCE` seconds a line there says what the program is waiting for.

    Raises:
        PluginExitError: it raised SystemExit, KeyboardInterrupt or the like.
        KeyboardInterrupt: the user pressed Ctrl-C; it says what ran.
    """
    with ExitStack() as stack:
        if loading:
            stack.enter_context(diverted_output())
            stack.enter_context(_named_when_slow(what))
        interrupts = stack.enter_context(_interrupts())
        try:
            yield
        except BaseException as reason:
            if interrupts and not isinstance(reason, Exception):
                raise KeyboardInterrupt(_while(what, loading)) from reason
            if isinstance(reason, Exception) and not interrupts:
                raise
            if not interrupts:
                raise PluginExitError(f"{what} cannot be used: it raised {error_summary(reason)}") from reason
        if interrupts:  # and the code has caught the exception, as a bare except does
            raise KeyboardInterrupt(_while(what, loading))


@contextmanager
def plugin_errors(what: str, *, ours: bool) -> Iterator[None]:
    """Run code that a plugin's description names; whatever it raises becomes one line that names it.

    Errors of this project's own plugins, :class:`BcosError` and lack of memory pass through.

    Raises:
        PluginError: it raised something else.
    """
    with plugin_guard(what, loading=False):
        try:
            yield
        except BcosError:
            raise
        except Exception as reason:
            if ours or type(reason).__name__ in ("MemoryError", "OutOfMemoryError") or _NO_MEMORY in first_line(reason):
                raise
            raise PluginError(f"{what} failed: {error_summary(reason)}") from reason


def _while(what: str, loading: bool) -> str:
    return f"while loading {what}" if loading else f"in {what}"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Record the user's Ctrl-C, which could otherwise not be told from an exception that the code raises."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _named_when_slow(what: str) -> Iterator[None]:
    line = f"bcos: still loading {printable(what)} after {PATIENCE:g} seconds ...; press Ctrl-C to stop\n"

    def tell() -> None:
        sys.stderr.write(line)
        sys.stderr.flush()

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _divert_output(undo: ExitStack) -> None:
    _flush(sys.stdout)
    undo.enter_context(redirect_stdout(sys.stderr))
    with suppress(OSError):  # one of them is closed
        kept = os.dup(1)  # programs that it starts, and libraries in C, know nothing of sys.stdout
        undo.callback(os.close, kept)
        os.dup2(2, 1)
        undo.callback(os.dup2, kept, 1)
        undo.callback(_flush, sys.__stdout__)


diverted_output = ProcessSetting(_divert_output).on
"""Sends everything that is printed inside the block to standard error."""


def _flush(stream: object) -> None:
    with suppress(OSError, ValueError, AttributeError):
        stream.flush()  # type: ignore[attr-defined] # reason: None where there is no standard output
