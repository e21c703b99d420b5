"""Processes that end when the one that started them is killed. Imports no torch."""

import ctypes
import multiprocessing
import os
import signal
import sys

LAUNCHER = "BCOS_LAUNCHER"
"""Environment variable with the number of the process that launches others."""
_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Let this process get a signal when its parent, `parent`, ends; end it at once if that has happened already.

    A parent that gets SIGKILL cannot tell its children. On Linux the system does; elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_starter() -> None:
    """Let a process of a pool, or of a loader, be killed when the one that started it ends."""
    starter = multiprocessing.parent_process()
    if starter is not None and starter.pid is not None:
        end_with_parent(signal.SIGKILL, starter.pid)


def end_with_launcher() -> None:
    """End this process with the one that started it, if that is the launcher of this program, or torchrun."""
    launched = os.environ.pop(LAUNCHER, None)  # it is not that of processes which this one may start
    if launched is not None:
        end_with_parent(signal.SIGTERM, int(launched))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM, os.getppid())
