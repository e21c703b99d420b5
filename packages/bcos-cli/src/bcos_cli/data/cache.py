"""Copies of remote shards on this machine, of a bounded size. Imports no torch."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import IO

import webdataset
from webdataset.cache import FileCache

from bcos_cli.data.index import is_url
from bcos_core.errors import BcosError


class ShardCache:
    """Opens shards through a folder of copies; local ones as they are.

    Args:
        folder: for the copies; processes and runs may share it.
        size: in bytes, to which the least recently used copies are removed before another one is fetched.
    """

    def __init__(self, folder: str, size: int) -> None:
        self.folder = folder
        self.size = size

    def __call__(self, url: str) -> IO[bytes]:
        """Open a shard, fetched if there is no copy.

        Raises:
            OSError: it cannot be fetched.
        """
        if not is_url(url):
            stream: IO[bytes] = webdataset.gopen(url)
            return stream
        cache = FileCache(
            self.folder, url_to_name=_name, validator=None, cache_size=self.size, cache_cleanup_interval=0
        )
        for _ in range(3):
            path = Path(cache.get_file(url))
            with contextlib.suppress(FileNotFoundError):  # removed by another process, which needed the room
                os.utime(path)  # the removal goes by the time of change
                return path.open("rb")
        raise OSError(f"the copies in {self.folder} are removed before they are read; give data.cache_gb more room")


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


def _name(url: str) -> str:
    """File name of a copy: two data sets may both have a ``train-000000.tar``."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.rpartition('/')[2][-80:].replace(' ', '_')}"
