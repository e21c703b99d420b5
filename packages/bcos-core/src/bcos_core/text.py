"""Untrusted text, made safe to print to a terminal. Imports no torch."""

import re

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
