"""Copies of remote shards on this machine, of a bounded size."""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO

from filelock import FileLock

from bcos_cli.data.index import is_url
from bcos_cli.data.opening import open_url
from bcos_core.errors import BcosError


class ShardCache:
    """Opens shards through a folder of copies; local ones as they are.

    A copy is there whole or not at all, and is fetched by one process while others wait for it. (WebDataset's own cache
    leaves parts of interrupted downloads, removes those of other processes, and grows beyond its bound.)

    Args:
        folder: for the copies; processes and runs may share it.
        size: in bytes, to which the least recently used copies are removed after another one was fetched.
    """

    def __init__(self, folder: str, size: int) -> None:
        self.folder = Path(folder)
        self.size = size

    def __call__(self, url: str) -> IO[bytes]:
        """Open a shard, fetched if there is no copy.

        Raises:
            OSError: it cannot be fetched.
        """
        if not is_url(url):
            return open_url(url)
        path = self.folder / _name(url)
        with contextlib.suppress(FileNotFoundError):
            return _used(path)
        with FileLock(self.folder / f".{path.name}.lock"):
            with contextlib.suppress(FileNotFoundError):  # fetched by another process meanwhile
                return _used(path)
            copy = self._fetched(url, path)
        self._make_room()
        return copy

    def _fetched(self, url: str, path: Path) -> IO[bytes]:
        """Fetch a shard; what is returned can be read even if its file is removed."""
        aside = path.with_name(f".{path.name}.tmp")
        try:
            with open_url(url) as stream, aside.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            copy = aside.open("rb")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return copy

    def _make_room(self) -> None:
        with FileLock(self.folder / ".room.lock"):
            found = []
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if not path.name.startswith("."):
                        status = path.stat()
                        found.append((status.st_mtime_ns, status.st_size, path))
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found)[:-1]:  # the last one is in use
                if total <= self.size:
                    return
                path.unlink(missing_ok=True)
                total -= size


def open_shard(cache: str | None, cache_gb: float) -> ShardCache | None:
    """Return the cache that a recipe asks for, if it asks for one.

    Raises:
        BcosError: its folder cannot be made.
    """
    if cache is None:
        return None
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise BcosError(f"cannot make the folder data.cache={cache!r}: {reason.strerror}; choose another") from reason
    return ShardCache(cache, int(cache_gb * 1e9))


def _used(path: Path) -> IO[bytes]:
    """Open a copy, the most recently used one from now on."""
    stream = path.open("rb")
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile; it can be read all the same
        os.utime(path)
    return stream


def _name(url: str) -> str:
    """File name of a copy: two data sets may both have a ``train-000000.tar``."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.rpartition('/')[2][-80:].replace(' ', '_')}"
