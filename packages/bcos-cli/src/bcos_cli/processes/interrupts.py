"""Ctrl-C: the first ends the command in order, the next one at once. Imports nothing that takes time."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""Exit status of what was ended by Ctrl-C, as shells have it."""


class Interrupts:
    """What the program does when SIGINT comes. Never a traceback: files are written whole or not at all."""

    def __init__(self) -> None:
        self.leaving = False
        """All is done and said; nothing is left to be ended in order."""
        self._received = 0
        self._process = os.getpid()

    def listen(self) -> None:
        """Take the signal from now on, unless the program is to ignore it, as shells tell those in the background."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

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
        """End the process, and those that it has started, at once."""
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
    """Let processes that are started meanwhile not hear of Ctrl-C: the main process, which takes it then, ends them."""
    noted: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    deferred = callable(handler) and threading.current_thread() is threading.main_thread()
    if deferred:  # the system may give the signal to another thread, and Python still interrupts this one
        signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if deferred:
            signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)
