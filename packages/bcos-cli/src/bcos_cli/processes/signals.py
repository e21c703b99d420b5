"""Signals: Ctrl-C ends a command, and those of schedulers ask a training to end early. Imports nothing slow."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, as in shells."""
CLOSED_PIPE = 141
"""Exit status of a program whose output nobody reads any more, as in shells: 128 + SIGPIPE."""
EXIT_STATUS = 75
"""Exit status of a run that was asked to end and wrote a checkpoint: EX_TEMPFAIL of sysexits, "try again later"."""
_SPARE = 60.0
"""Seconds at the end of a limit on time that are kept to end in order; a hundredth of the time, if that is less."""
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
    """Remembers that a signal has come, or knows that the time is up; all processes end after the same step.

    Args:
        every: steps between two questions, each of which waits for all processes.
        hours: time that the training may take; None for any.
        began: when it began, in the seconds of :func:`time.monotonic`; None for now.
    """

    # Schedulers may signal one process of many, or all at different steps. The others would wait for ever for the
    # gradients of one that left alone: the handler only notes the signal, and all processes agree between two steps.

    def __init__(
        self, agree: Callable[[bool], bool], every: int, hours: float | None = None, began: float | None = None
    ) -> None:
        self.received: str | None = None
        """What asks for the end."""
        self._limit = f"train.max_hours={hours:g}" if hours is not None else ""
        began = time.monotonic() if began is None else began
        self._end = math.inf if hours is None else began + 3600 * hours - min(36 * hours, _SPARE)
        self._agree = agree
        self._every = every
        self._at_once = False
        self._listens = False

    def is_due(self, step: int, needed: float = 0.0) -> bool:
        """Whether the run is to end after this step."""
        return step % self._every == 0 and self.asked(needed)

    def asked(self, needed: float = 0.0) -> bool:
        """Whether the run is to end, because there are not the `needed` seconds for what comes next if nothing else."""
        if time.monotonic() + needed >= self._end:
            self.received = self.received or self._limit
        return self._agree(self.received is not None)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block, where Python allows it: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        self._listens = True
        try:
            yield
        finally:
            self._listens = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal, or the end of the time, end the block where it is, by raising :class:`Preempted`."""
        self._at_once = True
        timer = threading.Timer(min(self._end - time.monotonic(), threading.TIMEOUT_MAX), self._signal_end)
        timer.daemon = True
        if self._listens and self._end < math.inf:
            timer.start()
        try:
            yield
        finally:
            self._at_once = False
            timer.cancel()
            if timer.is_alive():
                timer.join()  # it must not signal once nobody listens

    def _signal_end(self) -> None:
        self.received = self.received or self._limit
        if self._listens:
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNALS[-1])

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the end itself
            raise Preempted
