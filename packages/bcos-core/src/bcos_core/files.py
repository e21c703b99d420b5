"""Atomic files, which are there whole or not at all. Imports no torch."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]+\.tmp")
"""Name that :func:`replacement` gives to a file that is not whole yet."""


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` to `path` as :func:`replacement` does."""
    with replacement(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacement(path: str | Path) -> Iterator[Path]:
    """Give a new, empty file beside `path` to write to; it takes the place of `path` at the end of the block.

    Only a regular file is ever replaced, and keeps its permissions; after an error it is what it was. Links go on
    pointing to where they do. What cannot be replaced (a device, a pipe, the file that is this process's standard
    output) is written to, once all is there. Missing folders are made.

    Raises:
        OSError: it cannot be written; `filename` is the path that was given.
    """
    path = Path(path)
    with path_in_errors(path):
        old = _status(path)
        if old is not None and (not stat.S_ISREG(old.st_mode) or _descriptor(old) is not None):
            with TemporaryDirectory() as folder:
                aside = Path(folder, "content")
                aside.touch()
                yield aside
                _copy(aside, path, _descriptor(old))
            return
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        # A reader, or a run that is resumed after a kill, must never see half a file. Renaming within a folder is
        # atomic, which writing is not; hence a file of its own in the same folder, under a name nobody else uses.
        aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
        try:
            mode = 0o666 if old is None else stat.S_IMODE(old.st_mode) | stat.S_IWUSR
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
            yield aside
            if old is not None and stat.S_IMODE(aside.stat().st_mode) != stat.S_IMODE(old.st_mode):
                aside.chmod(stat.S_IMODE(old.st_mode))
            aside.replace(place)
        except OSError as reason:
            if reason.filename == str(aside):  # a name that the caller does not know
                raise OSError(reason.errno, reason.strerror, str(path)) from reason
            raise
        finally:
            aside.unlink(missing_ok=True)


def is_aside(name: str) -> bool:
    """Whether :func:`replacement` gives such a name to a file that is not whole yet."""
    return _ASIDE.fullmatch(name) is not None


def remove_asides(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove what processes that were killed in :func:`replacement` left in a folder that no other process writes to.

    `is_ours` says of a name whether the caller writes such a file there.
    """
    for path in folder.glob(".*.tmp"):
        match = _ASIDE.fullmatch(path.name)
        if match and is_ours(match["name"]) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


@contextmanager
def path_in_errors(path: str | Path) -> Iterator[None]:
    """Add the path to errors of writing that lack it, such as that of a full disk."""
    try:
        yield
    except OSError as reason:
        if reason.errno is not None and reason.filename is None:
            reason.filename = str(path)
        raise


def _status(path: Path) -> os.stat_result | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return status


def _descriptor(status: os.stat_result) -> int | None:
    """Descriptor of the standard output or error stream, if it is this file."""
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            if os.path.samestat(os.fstat(descriptor), status):
                return descriptor
    return None


def _copy(source: Path, target: Path, descriptor: int | None) -> None:
    """Copy to the open stream of a descriptor, at its position, or else to what `target` names."""
    opened = target.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb")
    with source.open("rb") as content, opened as stream:
        shutil.copyfileobj(content, stream)
