"""Checks of the file or folder that a command is to write, before its work begins."""

import os
from collections.abc import Iterable
from pathlib import Path

from bcos_core.errors import BcosError


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuse a path with a file where a folder has to be, or that may not be written; nothing is made yet."""
    above = path
    while not above.exists():
        above = above.parent
    if above != path and not above.is_dir():
        raise BcosError(f"{option} {path}: {str(above)!r} is a file, not a folder; choose another place")
    if not os.access(above, os.W_OK):
        raise BcosError(f"{option} {path}: {str(above)!r} cannot be written; choose another place")


def check_folder(out: Path, marker: str, *, inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder with other things or an input in it, or that cannot be written; nothing is made yet.

    Args:
        out: a new or empty folder, or one that an earlier call of the same command filled.
        marker: file by which that is known.
        inputs: files that are read.
    """
    check_writable(out)
    if out.is_file():
        raise BcosError(f"--out {out} is a file; choose a folder")
    if not out.is_dir():
        return
    whole = out.resolve()
    if (inside := next((p for p in inputs if whole in p.resolve().parents), None)) is not None:
        raise BcosError(f"--out {out} holds {str(inside)!r}, which is to be explained; choose another folder")
    if any(out.iterdir()) and not (out / marker).is_file():
        raise BcosError(f"--out {out} holds other things; choose a new folder")
