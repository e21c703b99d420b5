"""Checks of the file or folder that a command is to write, before its work begins."""

import os
from collections.abc import Iterable
from pathlib import Path

from bcos_cli.file_names import INDEX_NAME, MAPS_NAME, METRICS_NAME, VERSIONS_NAME
from bcos_cli.folder_lock import LOCK_NAME
from bcos_core.errors import BcosError

_READ = (INDEX_NAME, MAPS_NAME, METRICS_NAME, VERSIONS_NAME)
_READ_SUFFIXES = (".tar", ".safetensors", ".pth", ".yaml", ".yml")
"""Files of shards and of runs that commands read."""


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuse a path with a file where a folder has to be, or that may not be written; nothing is made yet."""
    above = path
    while not above.exists():
        above = above.parent
    if above != path and not above.is_dir():
        raise BcosError(f"{option} {path}: {str(above)!r} is a file, not a folder; choose another place")
    if not os.access(above, os.W_OK):
        raise BcosError(f"{option} {path}: {str(above)!r} cannot be written; choose another place")


def check_apart(path: Path, reads: Iterable[str | Path | None], option: str = "--out") -> None:
    """Refuse a file that the command reads as the one that it is to write.

    Args:
        path: the file to be written.
        reads: files, and folders of shards or of runs, that are read; what is none of these is no matter.
    """
    if not path.exists():
        return
    for read in (Path(given) for given in reads if given is not None):
        inside = read.is_dir() and path.resolve().parent == read.resolve()
        if (inside and (path.name in _READ or path.suffix in _READ_SUFFIXES)) or (
            read.exists() and read.samefile(path)
        ):
            raise BcosError(f"{option} {path} is read by this command, and would be replaced; choose another file")


def check_table(path: Path, start: str, option: str = "--out") -> None:
    """Refuse to replace a table that no earlier call has written: it does not begin with `start`."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(start)) == start.encode()
    except FileNotFoundError:
        return
    if not begins:
        raise BcosError(f"{option}: {str(path)!r} is there, and is no table of this command; choose another folder")


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
    if not (out / marker).is_file() and any(path.name != LOCK_NAME for path in out.iterdir()):
        raise BcosError(f"--out {out} holds other things; choose a new folder")
