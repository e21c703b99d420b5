"""Images in folders that are their classes. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bcos_cli.data.image_decoder import IMAGE_SUFFIXES, check_bytes
from bcos_cli.data.sources.source import ImageItem
from bcos_cli.data.splits import SPELLINGS
from bcos_core.errors import BcosError

SPLIT_NAMES = tuple(name for names in SPELLINGS.values() for name in names)


@dataclass(frozen=True)
class FolderSource:
    """Files below ``root/<class>/`` or ``root/<split>/<class>/``."""

    root: Path
    classes: list[str]
    items: list[ImageItem]

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the file as it is."""
        path = self.root / item.path
        check_bytes(path.stat().st_size)
        return path.read_bytes(), item.extension


def parse_tree(files: Mapping[str, str], split: str, source: str) -> tuple[list[str], list[ImageItem]]:
    """Derive classes and splits from paths ``[split/]class/.../image``.

    Folders that all files share, above the splits or classes, do not count. Hidden files, and files whose names are not
    those of images, are left out.

    Args:
        files: paths, and for each what changes with its content.

    Raises:
        BcosError: no image in a class folder, or splits beside something else.
    """
    images = {f: PurePosixPath(f).parts for f in files if f.lower().endswith(IMAGE_SUFFIXES)}
    folders = {f: p[:-1] for f, p in images.items() if not any(name.startswith((".", "__MACOSX")) for name in p)}
    skip = _shared_depth(list(folders.values()))
    below = {f: parts[skip:] for f, parts in folders.items() if len(parts) > skip}
    tops = {parts[0] for parts in below.values()}
    odd = sorted(top for top in tops if top.lower() not in SPLIT_NAMES)
    in_splits = [parts for parts in below.values() if parts[0] not in odd]
    # "train" beside other classes is a class too, unless there are classes in it
    has_splits = bool(in_splits) and (not odd or any(len(parts) > 1 for parts in in_splits))
    if has_splits and odd:
        raise BcosError(
            f"{source!r} holds splits ({', '.join(sorted(tops - set(odd)))}) and beside them {', '.join(odd[:5])}; "
            "move those away, or rename the splits if they are classes"
        )
    placed = {f: parts if has_splits else (split, *parts) for f, parts in below.items()}  # (split, class, ...)
    found = [(f, parts[0], parts[1]) for f, parts in placed.items() if len(parts) > 1]
    if not found:
        raise BcosError(
            f"{source!r} holds no images in class folders; lay them out as CLASS/image.jpg or train/CLASS/image.jpg"
        )
    classes = sorted({name for _, _, name in found})
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [ImageItem(path, part, labels[name], files[path]) for path, part, name in found]


def files_below(root: Path) -> dict[str, str]:
    """Return the paths of all files, in linked folders too, with their sizes; sorted."""
    found = {}
    visited: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a folder above
            below.clear()
            continue
        visited.add(real)
        for path in (Path(folder) / name for name in files):
            if path.is_file():
                found[path.relative_to(root).as_posix()] = str(path.stat().st_size)
    return dict(sorted(found.items()))


def _shared_depth(folders: list[tuple[str, ...]]) -> int:
    """Count the leading folders that all files share, of which none is a split and which have a class below them."""
    depth = 0
    while folders and all(len(parts) > depth + 1 for parts in folders):
        names = {parts[depth] for parts in folders}
        if len(names) > 1 or next(iter(names)).lower() in SPLIT_NAMES:
            break
        depth += 1
    return depth
