"""Where images come from before they are packed.

Folders, zip files, torchvision data sets. Imports no torch.
"""

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from bcos_core.errors import BcosError

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImageItem:
    """One labelled image of a source."""

    path: str
    """Where it is in the source; also the name under which problems are reported."""
    split: str
    label: int


class ImageSource(Protocol):
    """Labelled images by split. Must be picklable: packing runs in several processes."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""

    @property
    def items(self) -> list[ImageItem]:
        """All images, in an order that is always the same."""

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Encoded bytes of an image, and their file name extension without the dot."""


@dataclass(frozen=True)
class FolderSource:
    """Files below ``root/<class>/`` or ``root/<split>/<class>/``."""

    root: Path
    classes: list[str]
    items: list[ImageItem]

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the file as it is."""
        return (self.root / item.path).read_bytes(), _extension(item.path)


class ZipSource:
    """The same tree in a zip file."""

    def __init__(self, archive: Path, classes: list[str], items: list[ImageItem]) -> None:
        self.archive = archive
        self.classes = classes
        self.items = items
        self._open: zipfile.ZipFile | None = None

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the member as it is; the archive is opened once a process."""
        if self._open is None:
            self._open = zipfile.ZipFile(self.archive)
        return self._open.read(item.path), _extension(item.path)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}


class ArraySource:
    """Images in memory, packed as PNG: what built-in and torchvision data sets give."""

    def __init__(self, classes: list[str], items: list[ImageItem], pngs: dict[str, bytes]) -> None:
        self.classes = classes
        self.items = items
        self._pngs = pngs

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Return the PNG."""
        return self._pngs[item.path], "png"


def open_source(source: str, *, root: Path | None = None, split: str = "train") -> ImageSource:
    """Find out what `source` is.

    Args:
        source: a folder, a zip file, ``torchvision:NAME``, or the name of a registered data set.
        root: where a torchvision data set lies; it is downloaded there if it is missing.
        split: name for the images of a tree without splits.

    Raises:
        BcosError: nothing there, or no images in classes.
    """
    if source.startswith("torchvision:"):
        from bcos_cli.data.torchvision_source import torchvision_source

        return torchvision_source(source.removeprefix("torchvision:"), root or Path("data"))
    path = Path(source)
    if path.is_dir():
        files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        classes, items = parse_tree(files, split, source)
        return FolderSource(path, classes, items)
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise BcosError(f"{source!r} is a file, but no zip; give a folder of class folders, or a zip of one")
        with zipfile.ZipFile(path) as archive:
            files = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        return ZipSource(path, *parse_tree(files, split, source))
    from bcos_cli.plugins import datasets

    if source in datasets().names():
        from bcos_core.plugins import resolve

        built: ImageSource = resolve(datasets()[source].builder)()
        return built
    raise BcosError(
        f"there is no data source {source!r}; give a folder or zip of class folders, torchvision:NAME, "
        f"or one of: {', '.join(datasets().names())}"
    )


def parse_tree(files: Iterable[str], split: str, source: str) -> tuple[list[str], list[ImageItem]]:
    """Read classes and splits off the paths ``[split/]class/.../image``.

    Folders that all files share, above the splits or classes, do not count. Hidden files and files that are
    no images by their name are left out.

    Raises:
        BcosError: no image in a class folder.
    """
    images = [
        f
        for f in files
        if f.lower().endswith(IMAGE_SUFFIXES)
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(f).parts)
    ]
    folders = {f: PurePosixPath(f).parts[:-1] for f in images}
    skip = _shared_depth(list(folders.values()))
    found: list[tuple[str, str, str]] = []  # (path, split, class)
    tops = {parts[skip] for parts in folders.values() if len(parts) > skip}
    has_splits = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)
    for path, parts in folders.items():
        below = parts[skip:]
        if has_splits and len(below) >= 2:
            found.append((path, below[0], below[1]))
        elif not has_splits and below:
            found.append((path, split, below[0]))
    if not found:
        raise BcosError(
            f"{source!r} holds no images in class folders; lay them out as CLASS/image.jpg or train/CLASS/image.jpg"
        )
    classes = sorted({name for _, _, name in found})
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [ImageItem(path, split, labels[name]) for path, split, name in found]


def _shared_depth(folders: list[tuple[str, ...]]) -> int:
    """How many leading folders all files share, none of them a split, and at least a class below them."""
    depth = 0
    while folders and all(len(parts) > depth + 1 for parts in folders):
        names = {parts[depth] for parts in folders}
        if len(names) > 1 or next(iter(names)).lower() in SPLIT_NAMES:
            break
        depth += 1
    return depth


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix.lower().removeprefix(".")


def encode_png(image: object) -> bytes:
    """Encode a PIL image, or an array (H, W) or (H, W, 3) of 8-bit values, as PNG."""
    import numpy as np
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, dtype=np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
