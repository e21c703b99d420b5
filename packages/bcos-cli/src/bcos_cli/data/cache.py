"""Copies of remote shards on this machine, of a bounded size."""

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock

from bcos_cli.data.remote import open_file, open_url
from bcos_core.address import is_address
from bcos_core.errors import BcosError

MARKER = "CACHEDIR.TAG"
"""File that marks a folder as a cache of ours; backup programs know it (bford.info/cachedir)."""
_MARK = b"""Signature: 8a477f597d28d172789f06886806bc55
# Copies of remote shards. The program bcos removes the oldest of them, and nothing else, to make room for others.
"""
_LOCK = ".room.lock"
_COPY = re.compile(r"[0-9a-f]{32}-[A-Za-z0-9._-]*")


class ShardCache:
    """A folder of copies through which remote shards are opened; local ones are opened as they are.

    A copy is there whole or not at all, and is fetched by one process while others wait for it. (WebDataset's own cache
    leaves parts of interrupted downloads, removes those of other processes, and grows beyond its bound.)

    Args:
        folder: for the copies, made if it is missing; processes and runs may share it.
        size: bytes that the copies may take; the least recently used ones are removed when another one is fetched.

    Raises:
        BcosError: the folder cannot be made, or holds other things.
    """

    def __init__(self, folder: str, size: int) -> None:
        self.folder = Path(folder)
        self.size = size
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as reason:
            raise BcosError(
                f"cannot make the folder data.cache={folder!r}: {reason.strerror}; choose another"
            ) from reason

    def _claim(self) -> None:
        """Mark a new folder as ours; nothing is ever removed from a folder without the mark."""
        if self._is_ours():
            return
        self._refuse_other_things({_LOCK, MARKER})  # before anything is written there
        with FileLock(self.folder / _LOCK):
            if not self._is_ours():  # marked by another process meanwhile
                self._refuse_other_things({_LOCK})
                (self.folder / MARKER).write_bytes(_MARK)

    def _is_ours(self) -> bool:
        with contextlib.suppress(OSError), open_file(str(self.folder / MARKER)) as marker:
            return marker.read(len(_MARK) + 1) == _MARK
        return False

    def _refuse_other_things(self, known: set[str]) -> None:
        with os.scandir(self.folder) as entries:
            other = next((entry.name for entry in entries if entry.name not in known), None)
        if other is not None and not self._is_ours():
            raise BcosError(
                f"the folder data.cache={str(self.folder)!r} is not a cache of shards: it holds {other!r}; "
                "choose an empty or a new one, in which old copies may be removed"
            )

    def __call__(self, url: str) -> IO[bytes]:
        """Open a shard, and fetch it first if there is no copy; an OSError where it cannot be fetched."""
        if not is_address(url):
            return open_url(url)
        path = self.folder / _name(url)
        with contextlib.suppress(FileNotFoundError):
            return _open_copy(path)
        with FileLock(self.folder / f".{path.name}.lock"):
            with contextlib.suppress(FileNotFoundError):  # fetched by another process meanwhile
                return _open_copy(path)
            if not self._is_ours():
                raise BcosError(f"data.cache={str(self.folder)!r} has lost its {MARKER}; remove that folder")
            copy = self._fetch(url, path)
        self._make_room()
        return copy

    def _fetch(self, url: str, path: Path) -> IO[bytes]:
        """Copy a shard to `path`; the stream can be read even if another process removes the copy."""
        aside = path.with_name(f".{path.name}.tmp")
        aside.unlink(missing_ok=True)  # of a process that was killed
        try:
            with open_url(url) as stream, aside.open("xb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            copy = aside.open("rb")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return copy

    def _make_room(self) -> None:
        with FileLock(self.folder / _LOCK):
            if not self._is_ours():
                return
            found = sorted(self._copies())
            total = sum(size for _, size, _ in found)
            for _, size, path in found[:-1]:  # the last one is in use
                if total <= self.size:
                    return
                path.unlink(missing_ok=True)
                total -= size

    def _copies(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each copy was last used, its size and its path; other files are left alone."""
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if _COPY.fullmatch(path.name) and stat.S_ISREG(status.st_mode):
                    yield status.st_mtime_ns, status.st_size, path


def _open_copy(path: Path) -> IO[bytes]:
    """Open a copy and make it the most recently used one."""
    stream = open_file(str(path))
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile; it can be read all the same
        os.utime(path)
    return stream


def _name(url: str) -> str:
    """Return the file name of a copy; two data sets may both have a ``train-000000.tar``."""
    last = re.sub(r"[^A-Za-z0-9._-]", "_", url.rpartition("/")[2])
    return f"{hashlib.sha256(url.encode()).hexdigest()[:32]}-{last[-80:]}"
