"""All files of a source: those that may be packed, and those that are left out, with the reason. Imports no torch."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from bcos_cli.data.image_decoder import IMAGE_SUFFIXES
from bcos_cli.data.index import LeftOut, by_reason
from bcos_cli.data.pack_progress import written_here
from bcos_cli.file_names import (
    CHECKPOINTS_NAME,
    CONFIG_NAME,
    DEMO_NAME,
    EXPLANATIONS_NAME,
    INDEX_NAME,
    MAPS_NAME,
    METRICS_NAME,
    NEURONS_NAME,
    NEURONS_PAGE,
    PROGRESS_NAME,
)
from bcos_core.errors import BcosError

_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(".apng", ".arw", ".cr2", ".cr3", ".dib", ".dng", ".exr", ".heic", ".heif", ".ico", ".j2k", ".jfi", ".jfif"),
    *(".jif", ".jp2", ".jpe", ".jpx", ".jxl", ".nef", ".orf", ".pbm", ".pnm", ".psd", ".raf", ".rw2", ".svg", ".tga"),
)
"""Suffixes of images; one that cannot be decoded after all is an unreadable image, and not passed over."""
_OUTPUTS = (
    {CONFIG_NAME, METRICS_NAME},
    {CONFIG_NAME, CHECKPOINTS_NAME},
    {EXPLANATIONS_NAME},
    {MAPS_NAME},
    {NEURONS_PAGE, NEURONS_NAME},
    {PROGRESS_NAME},
    {DEMO_NAME},
)
"""Names by which a folder is known that this program wrote: runs, explanations, maps, neurons, shards, the demo."""


@dataclass
class Inventory:
    """Files of a source by their paths, with slashes."""

    files: dict[str, int] = field(default_factory=dict)
    """Size in bytes of each file that may be packed; 0 for an image's link that leads nowhere, which is unreadable."""
    empty: list[str] = field(default_factory=list)
    """Folders in which nothing is."""
    reasons: dict[str, list[str]] = field(default_factory=dict)
    """Paths of what is left out, by the reason."""
    excluded: set[str] = field(default_factory=set)
    """Files that the user leaves out."""

    def leave_out(self, path: str, reason: str) -> None:
        """Take a file out of those that may be packed."""
        self.files.pop(path, None)
        self.reasons.setdefault(reason, []).append(path)

    def exclude(self, pattern: str, source: str) -> None:
        """Leave out the files, and the folders with all below them, whose paths fit a pattern.

        Its parts between slashes may have ``*``, ``?`` and ``[...]``; ``**`` is any number of folders.

        Raises:
            BcosError: it fits nothing in the source, not even something that is left out anyway.
        """
        parts = [part for part in _parts(pattern) if part != "."]
        files = [path for path in self.files if _fits(_parts(path), parts)]
        empty = [path for path in self.empty if _fits(_parts(path), parts)]
        gone = (path for paths in self.reasons.values() for path in paths)
        if not parts or not (files or empty or any(_fits(_parts(path), parts) for path in gone)):
            raise BcosError(
                f"--exclude {pattern!r} fits no file or folder of {source!r}; patterns are of paths from there, such "
                "as train/junk or '**/*_mask.png'"
            )
        self.excluded.update(files)
        self.empty = [path for path in self.empty if path not in empty]
        for path in (*files, *(f"{path}/" for path in empty)):
            self.leave_out(path, f"excluded by --exclude {pattern}")

    def images(self, suffixes: tuple[str, ...] = _SUFFIXES) -> Iterator[str]:
        """Yield the files whose names end in one of `suffixes`, those of images; leave out the others."""
        for path in list(self.files):
            if path.lower().endswith(suffixes):
                yield path
            else:
                suffix = utf8(PurePosixPath(path).suffix.lower()) or "no suffix"
                why = "an image of a format that is not read" if is_image(path) else "no image, by its name"
                self.leave_out(path, f"{why} ({suffix})")

    @property
    def left_out(self) -> list[LeftOut]:
        """What is left out, by the reason: numbers and first names."""
        return by_reason({reason: [utf8(path) for path in paths] for reason, paths in self.reasons.items()})


def _parts(path: str) -> list[str]:
    """Return the names in a path, in composed form, which is the same whatever system wrote them."""
    return [part for part in normalize("NFC", path).split("/") if part]


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or that of a folder above it, fits a pattern, part by part."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_fits(path[skipped:], pattern[1:]) for skipped in range(len(path)))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def is_image(path: str) -> bool:
    """Whether a file has the name of an image."""
    return path.lower().endswith(_SUFFIXES)


def utf8(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 become a replacement character."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_hidden(path: PurePosixPath) -> bool:
    """Whether a file or a folder above it is hidden, or what macOS puts into archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def inventory_of(root: Path, output: Path | None = None) -> Inventory:
    """List the files below a folder, in linked folders too, sorted.

    Args:
        output: folder that is to be written, whose files are not listed.

    Raises:
        BcosError: a folder cannot be read, or the output is the root, or a folder of images in it.
    """
    found = Inventory()
    if output is not None and os.path.realpath(root) == os.path.realpath(output):
        raise BcosError(f"{str(output)!r} is the folder of the images, which is to be packed; choose another folder")
    _walk(root, "", (), None if output is None else os.path.realpath(output), found)
    return found


def _walk(folder: Path, prefix: str, above: tuple[str, ...], output: str | None, found: Inventory) -> None:
    real = os.path.realpath(folder)
    if prefix and real == output:
        if (image := next((path for path in inventory_of(folder).files if is_image(path)), None)) is not None:
            raise BcosError(
                f"{utf8(str(folder))!r} holds {utf8(image)!r}, an image of the source; choose another folder"
            )
        return
    if real in above:
        found.leave_out(prefix, "a link to a folder above it")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as reason:
        raise BcosError(f"cannot read the folder {utf8(str(folder))!r}: {reason.strerror}") from reason
    names = [entry.name for entry in entries]
    if prefix and _is_output(names):
        found.leave_out(prefix, "a folder that this program wrote")
        return
    if not entries and prefix:
        found.empty.append(prefix.rstrip("/"))
    ours = written_here(names)
    for entry in entries:
        path, here, is_link = prefix + entry.name, folder / entry.name, entry.is_symlink()
        if here.is_dir() if is_link else entry.is_dir():  # an entry knows without asking, but not where links lead
            if is_hidden(PurePosixPath(path)):
                found.leave_out(f"{path}/", "hidden")
            else:
                _walk(here, f"{path}/", (*above, real), output, found)
        elif entry.name in ours:
            found.leave_out(path, "written here by an earlier packing")
        elif is_hidden(PurePosixPath(path)):
            found.leave_out(path, "hidden")
        elif here.is_file() if is_link else entry.is_file():
            found.files[path] = here.stat().st_size
        elif not is_link:
            found.leave_out(path, "no regular file")
        elif is_image(path):
            found.files[path] = 0
        else:
            found.leave_out(path, "a link that leads nowhere")


def _is_output(names: Iterable[str]) -> bool:
    there = set(names)
    is_shards = INDEX_NAME in there and any(name.endswith(".tar") for name in there)
    return is_shards or any(marks <= there for marks in _OUTPUTS)
