"""Text and JSON from files that are not trusted: bounded in size, and refused in one line. Imports no torch."""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from bcos_core.errors import BcosError, first_line, shown

MAX_BYTES = 64 * 2**20
"""Largest size of a text file that is read."""


def read_text(path: str | Path, most: int = MAX_BYTES) -> str:
    """Read a file of text in UTF-8.

    Raises:
        BcosError: it is not a regular file, too large, or not text.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise BcosError(f"{str(path)!r} is not a regular file; give one")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BcosError(f"{str(path)!r} has more than {most:,} bytes, too many for a file of its kind")
    try:
        return content.decode()
    except UnicodeDecodeError as reason:
        raise BcosError(f"{str(path)!r} is not text in UTF-8: {first_line(reason)}") from reason


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Read JSON in which no key of an object stands twice.

    Args:
        finite: refuse NaN and infinite numbers, which are not JSON but which Python writes.

    Raises:
        BcosError: anything else, or values nested too deeply.
    """
    try:
        if finite:
            return json.loads(text, object_pairs_hook=_object, parse_constant=_not_finite)
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as reason:
        raise BcosError("values are nested too deeply") from reason
    except BcosError:
        raise
    except ValueError as reason:
        raise BcosError(f"it is not JSON: {first_line(reason)}") from reason


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise BcosError(f"the key {shown(twice)} is given twice")
    return found


def _not_finite(constant: str) -> NoReturn:
    raise BcosError(f"{constant} is not a finite number")
