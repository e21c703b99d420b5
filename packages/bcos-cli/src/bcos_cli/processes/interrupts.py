"""Ctrl-C: the first one ends the command in order, the next one at once. Imports nothing slow."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, as in shells."""


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

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: it is the first.
        """
        del number, frame
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
