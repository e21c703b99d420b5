"""One process at a time in a folder. Imports no torch."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bcos_core.errors import BcosError

LOCK_NAME = ".lock"
"""File that a process holds as long as it writes into a folder."""


@contextmanager
def locked(lock: Path, doing: str, *, timeout: float = 0, folder: Path | None = None) -> Iterator[None]:
    """Hold the file as a lock, and refuse a folder that another process, here or on a machine that shares it, holds.

    Args:
        lock: The file of the lock, which stays.
        doing: What the other process does, for the message: ``"packing"``.
        timeout: Seconds to wait for the lock; -1 waits until it is free.
        folder: The folder to name in messages (default: the one that the file is in).

    Raises:
        BcosError: another process holds it.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=timeout)
    except Timeout as reason:
        raise in_use(folder or lock.parent, doing) from reason
    try:
        yield
    finally:
        held.release()


@contextmanager
def locked_folder(folder: Path, doing: str, *, name: str = LOCK_NAME, timeout: float = 0) -> Iterator[None]:
    """Make the folder and hold a lock in it, as :func:`locked`; afterwards the lock is gone, and a new folder if empty.

    Raises:
        BcosError: another process holds it.
    """
    is_new, lock = not folder.exists(), folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(lock, doing, timeout=timeout):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # before it is released: afterwards it may be another's
            if is_new:
                with suppress(OSError):  # something is in it
                    folder.rmdir()


def is_locked(lock: Path) -> bool:
    """Whether a process holds the file as a lock. To look needs no right to write there."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or one of another user, of which only that user can tell
        return False
    return False


def in_use(folder: Path, doing: str) -> BcosError:
    """The error for a folder into which another process writes."""
    return BcosError(
        f"another process is {doing} into {str(folder)!r} (on {socket.gethostname()}, or on a machine that shares the "
        "folder); wait for it, or choose another folder"
    )
