"""Signals: Ctrl-C ends a command, and those of schedulers ask a training to end early. Imports nothing slow."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, as in shells."""
EXIT_STATUS = 75
"""Exit status of a run that was asked to end and wrote a checkpoint: EX_TEMPFAIL of sysexits, "try again later"."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that schedulers send before they take a machine away."""


class Interrupts:
    """Handler of SIGINT. It shows no traceback, for nothing is broken: files are written whole or not at all."""

    def __init__(self) -> None:
        self.leaving = False
        """Whether the program has done and reported everything: nothing is left to end in order."""
        self._received = 0
        self._process = os.getpid()

    def listen(self) -> None:
        """Take the signal from now on, unless it is ignored, as shells have it for programs in the background."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self)

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first signal, and end at the next one."""
        if os.getpid() != self._process:
            return  # the terminal sends it to child processes too; the main process ends them
        self._received += 1
        if self._received > 1 or self.leaving:
            self.end()
        raise KeyboardInterrupt

    def end(self) -> None:
        """End this process, and those that it has started, at once."""
        if not self.leaving:
            with suppress(OSError):
                os.write(2, b"bcos: interrupted\n")
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            for child in sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else ():
                child.kill()
        os._exit(INTERRUPTED)


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all of them: the main process ends them itself."""
    # Children inherit the mask of blocked signals, so that there is no moment at which one could be hit. What comes
    # meanwhile is noted and raised again afterwards, lest this process miss it.
    noted: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    deferred = callable(handler) and threading.current_thread() is threading.main_thread()
    if deferred:  # the system may give the signal to another thread, and Python still interrupts this one
        signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if deferred:
            signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)


class Preempted(Exception):  # noqa: N818 - reason: not an error
    """The run has ended early because a signal asked it to; ``--resume`` continues it."""

    exit_code = EXIT_STATUS


class Stopper:
    """Remembers that a signal has come; all processes end after the same step.

    Args:
        every: steps between two questions, each of which waits for all processes.
    """

    # Schedulers may signal one process of many, or all at different steps. The others would wait for ever for the
    # gradients of one that left alone: the handler only notes the signal, and all processes agree between two steps.

    def __init__(self, agree: Callable[[bool], bool], every: int) -> None:
        self.received: str | None = None
        self._agree = agree
        self._every = every
        self._at_once = False

    def is_due(self, step: int) -> bool:
        """Whether the run is to end after this step."""
        return step % self._every == 0 and self.asked()

    def asked(self) -> bool:
        """Whether the run is to end."""
        return self._agree(self.received is not None)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block, where Python allows it: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end the block where it is, by raising :class:`Preempted`."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the end itself
            raise Preempted
