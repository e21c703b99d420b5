"""Plain lines and JSON on standard output, messages on standard error. Imports nothing slow.

Names in them may come from strangers: control characters, which a terminal would obey, are written as escapes. Tables
and progress bars, which do the same, are in :mod:`bcos_cli.console`.
"""

import json
import os
import re
import sys
import traceback
from typing import Any, TextIO

from bcos_core.text import printable

_FORGED = re.compile(r"\n(?!  )")
"""Line breaks in a message, except those of an indented list: no name in it can pass for a message of its own."""


def say(text: str) -> None:
    """Write text of one or several lines to standard output."""
    _write(sys.stdout, printable(text, keep="\n\t"))


def say_json(value: Any) -> None:
    """Write one JSON document to standard output, in ASCII."""
    _write(sys.stdout, json.dumps(value, indent=1).replace("\x7f", "\\u007f"))


def tell(message: str) -> None:
    """Write a message of one line, with an indented list after it if need be, to standard error."""
    rank = os.environ.get("RANK", "0")
    process = "" if rank == "0" else f"[process {rank}] "
    line = _FORGED.sub(r"\\n", message)
    _write(sys.stderr, printable(f"bcos: {process}{line}", keep="\n"))


def tell_traceback(reason: BaseException) -> None:
    """Write the traceback of an exception to standard error."""
    _write(sys.stderr, printable("".join(traceback.format_exception(reason)).rstrip("\n"), keep="\n"))


def _write(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()
