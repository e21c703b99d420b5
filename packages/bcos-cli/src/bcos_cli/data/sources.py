"""Where images come from before they are packed.

Folders, zip files, torchvision data sets. Imports no torch.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from bcos_cli.data.image_decoder import IMAGE_SUFFIXES, check_bytes, unreadable
from bcos_cli.data.splits import SPELLINGS
from bcos_core.errors import BcosError, first_line

SPLIT_NAMES = tuple(name for names in SPELLINGS.values() for name in names)


@dataclass(frozen=True)
class ImageItem:
    """One labelled image of a source."""

    path: str
    """Where it is in the source; also the name under which problems are reported."""
    split: str
    label: int | tuple[int, ...]
    """Index of its class; a tuple, in all images of a source, where they have any number of classes."""
    version: str = ""
    """What changes with the content, such as the size in bytes: by it a changed source is noticed."""


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
        path = self.root / item.path
        check_bytes(path.stat().st_size)
        return path.read_bytes(), _extension(item.path)


class ZipSource:
    """The same tree in a zip file."""

    def __init__(self, archive: Path, classes: list[str], items: list[ImageItem]) -> None:
        self.archive = archive
        self.classes = classes
        self.items = items
        self._open: zipfile.ZipFile | None = None

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the member as it is; the archive is opened once a process."""
        with unreadable():  # zipfile and its decompressors raise many types
            if self._open is None:
                self._open = zipfile.ZipFile(self.archive)
            check_bytes(self._open.getinfo(item.path).file_size)  # of which no more is read, whatever it says
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


def open_source(
    source: str, *, root: Path | None = None, split: str = "train", labels: Path | None = None
) -> ImageSource:
    """Find out what `source` is.

    Args:
        source: a folder, a zip file, ``torchvision:NAME``, or the name of a registered data set.
        root: where a torchvision data set lies; it is downloaded there if it is missing.
        split: name for the images of a tree without splits.
        labels: table of the images of a folder or zip and their classes; None where folders are classes.

    Raises:
        BcosError: nothing there, or no images in classes.
    """
    parse = parse_tree if labels is None else _by_table(labels)
    if labels is not None and not Path(source).exists():
        raise BcosError(f"--labels goes with a folder or zip of images, got {source!r}")
    if source.startswith("torchvision:"):
        from bcos_cli.data.torchvision_source import torchvision_source

        return torchvision_source(source.removeprefix("torchvision:"), root or Path("data"))
    path = Path(source)
    if path.is_dir():
        sizes = _files_below(path)
        classes, items = parse(sizes, split, source, sizes)
        return FolderSource(path, classes, items)
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise BcosError(f"{source!r} is a file, but no zip; give a folder of class folders, or a zip of one")
        try:
            with zipfile.ZipFile(path) as archive:
                sums = {i.filename: f"{i.CRC:08x}" for i in archive.infolist() if not i.is_dir()}
        except Exception as reason:  # zipfile raises many types for archives that are damaged
            raise BcosError(f"the zip {source!r} cannot be read: {first_line(reason)}; make it again") from reason
        return ZipSource(path, *parse(sorted(sums), split, source, sums))
    from bcos_cli.plugins import datasets

    if source in datasets().names():
        from bcos_core.plugin_guard import plugin_guard
        from bcos_core.plugins import resolve

        builder = resolve(datasets()[source].builder)
        with plugin_guard(f"the data set {source!r}", loading=False):
            built: ImageSource = builder()
        return built
    raise BcosError(
        f"there is no data source {source!r}; give a folder or zip of class folders, torchvision:NAME, "
        f"or one of: {', '.join(datasets().names())}"
    )


Parse = Callable[[Iterable[str], str, str, Mapping[str, str] | None], tuple[list[str], list[ImageItem]]]


def _by_table(table: Path) -> Parse:
    from bcos_cli.data.labelled import labelled_items, read_table

    def parse(
        files: Iterable[str], split: str, source: str, versions: Mapping[str, str] | None = None
    ) -> tuple[list[str], list[ImageItem]]:
        del source
        return labelled_items(read_table(table), files, split, versions or {}, table)

    return parse


def parse_tree(
    files: Iterable[str], split: str, source: str, versions: Mapping[str, str] | None = None
) -> tuple[list[str], list[ImageItem]]:
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
    odd = sorted(top for top in tops if top.lower() not in SPLIT_NAMES)
    below_splits = [parts for parts in folders.values() if len(parts) > skip and parts[skip] not in odd]
    # "train" beside other classes is a class too, unless there are classes in it
    has_splits = bool(below_splits) and (not odd or any(len(parts) > skip + 1 for parts in below_splits))
    if has_splits and odd:
        raise BcosError(
            f"{source!r} holds splits ({', '.join(sorted(tops - set(odd)))}) and beside them {', '.join(odd[:5])}; "
            "move those away, or rename the splits if they are classes"
        )
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
    return classes, [
        ImageItem(path, split, labels[name], (versions or {}).get(path, "")) for path, split, name in found
    ]


def hold_out(items: list[ImageItem], share: float) -> list[ImageItem]:
    """Put a share of the images into the split ``test``, chosen by their paths: always the same ones.

    Raises:
        BcosError: a share outside (0, 1), or images that are split already.
    """
    if not 0 < share < 1:
        raise BcosError(f"the share of test images must be between 0 and 1, got {share}")
    if len({item.split for item in items}) > 1:
        raise BcosError("the images are split already; leave out --test-share")
    chosen = [int(hashlib.sha256(item.path.encode()).hexdigest()[:12], 16) < share * 16**12 for item in items]
    return [replace(i, split="test") if test else i for i, test in zip(items, chosen, strict=True)]


def _files_below(root: Path) -> dict[str, str]:
    """Paths of all files, through links to folders too, and their sizes; sorted."""
    found = {}
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add(real)
        for path in (Path(folder) / name for name in files):
            if path.is_file():
                found[path.relative_to(root).as_posix()] = str(path.stat().st_size)
    return dict(sorted(found.items()))


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
