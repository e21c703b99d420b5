"""Preemption: signals that ask a training to end early, and how it ends. Imports no torch."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = 75
"""Exit status of a run that was asked to end and wrote a checkpoint: EX_TEMPFAIL of sysexits, "try again later"."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that schedulers send before they take a machine away."""


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
        """Let a signal end the block where it is.

        Raises:
            Preempted: it has come.
        """
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number).name
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the end itself
            raise Preempted
