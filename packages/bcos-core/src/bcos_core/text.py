"""Text that is not trusted: read from files within bounds, parsed as JSON, made safe to print. Imports no torch."""

import json
import re
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from bcos_core.errors import BcosError, first_line, shown

MAX_BYTES = 64 * 2**20
"""Largest size of a text file that is read."""
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that change the direction of writing or end a line, and bytes that are not text."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return text in which control characters are written as escapes, so that they do nothing to a terminal.

    Args:
        keep: characters that stay as they are, such as the newline of a text of several lines.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return _COMMANDS.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


def cut(text: str, most: int) -> str:
    """Return the start of a text, of at most `most` bytes in UTF-8: file systems count those of a name.

    >>> cut("naïve", 3)
    'na'
    """
    data = text.encode(errors="surrogatepass")
    return text if len(data) <= most else data[:most].decode(errors="ignore")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first of `names` for a message, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")


def read_text(path: str | Path, most: int = MAX_BYTES) -> str:
    """Read a regular file of text in UTF-8, of at most `most` bytes; OSError where it cannot be read."""
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
