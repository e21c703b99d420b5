"""Writing files that are there whole, or not at all. Imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` aside, then rename it to `path`; missing folders are made, an old file is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let errors of writing say which file it was, which that of a full disk does not."""
    try:
        yield
    except OSError as reason:
        if reason.errno is not None and reason.filename is None:
            reason.filename = str(path)
        raise
