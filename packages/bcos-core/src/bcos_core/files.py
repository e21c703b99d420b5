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
        reason.filename = reason.filename or str(path)  # which a full disk does not say
        raise
    finally:
        aside.unlink(missing_ok=True)
