"""Writing files that are there whole, or not at all. Imports no torch."""

import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` aside, then rename it to `path`; missing folders are made, an old file is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    except OSError as reason:
        if reason.errno is not None and reason.filename is None:  # a full disk does not say it
            reason.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)
