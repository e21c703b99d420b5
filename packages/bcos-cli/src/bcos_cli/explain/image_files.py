"""Image files that a user names."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from bcos_cli import console
from bcos_cli.data.image_decoder import IMAGE_SUFFIXES
from bcos_cli.data.sources.inventory import inventory_of
from bcos_cli.file_names import INDEX_NAME
from bcos_core.errors import BcosError
from bcos_core.text import cut

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_LONGEST_NAME = 80
_RESERVED = ("contact-sheet", "explanations")


@dataclass(frozen=True)
class ImageFile:
    """A file, and a name for its outputs, unique within a call."""

    path: Path
    name: str


@dataclass(frozen=True)
class Failure:
    """A file or folder in which nothing could be explained."""

    file: str
    reason: str


_KINDS = 8
"""Kinds of files that are left out of a folder and named."""


def find_images(paths: Sequence[str | Path]) -> tuple[list[ImageFile], list[Failure]]:
    """Return the files, and those with the name of an image or video in the folders, in order; and folders without any.

    Folders are searched, linked ones too, without hidden files and folders that ``bcos`` wrote; patterns may
    have ``*``, ``?``, ``[...]`` and ``**``. What else is in a folder is told on standard error.

    Raises:
        BcosError: a path that is not there, a pattern that nothing matches, or no image at all.
    """
    found: list[Path] = []
    empty: list[Failure] = []
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    for path in [match for given in paths for match in _matches(str(given))]:
        if not path.is_dir():
            found.append(path)
            continue
        if (path / INDEX_NAME).is_file():
            raise BcosError(
                f"{str(path)!r} is a folder of shards; explain them with: bcos maps RUN --data {path} --out DIR"
            )
        inventory = inventory_of(path)
        below = sorted(path / name for name in inventory.images(suffixes))
        found += below
        kinds = sorted(inventory.left_out, key=lambda files: "image" not in files.reason)
        for files in kinds[:_KINDS]:
            console.err.print(f"{path}: left out {files}")
        if others := kinds[_KINDS:]:
            count = sum(files.files for files in others)
            console.err.print(f"{path}: left out {count:,} more, of {len(others):,} other kinds")
        if not below:
            empty.append(Failure(str(path), f"no images in this folder; they end in {', '.join(suffixes)}"))
    if not found:
        raise BcosError(f"no images in {', '.join(map(str, paths))}; images end in {', '.join(suffixes)}")
    unique = list(dict.fromkeys(found))
    return [ImageFile(path, name) for path, name in zip(unique, _names(unique), strict=True)], empty


def _matches(given: str) -> list[Path]:
    path = Path(given)
    if path.exists():
        return [path]
    if not glob.has_magic(given):
        raise BcosError(f"there is no image or folder {given!r}; give files, folders or patterns of images")
    matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - reason: Path.glob takes no absolute patterns
    if not matches:
        raise BcosError(f"no file matches the pattern {given!r}")
    return [Path(match) for match in matches]


def _names(paths: list[Path]) -> Iterator[str]:
    """Yield file names without extension and dots, not too long; numbered where taken, whatever the case."""
    taken = set(_RESERVED)
    for path in paths:
        stem = cut(path.stem.replace(".", "_"), _LONGEST_NAME)
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        yield name
