"""A source of labelled images, which can be packed, and one of images in memory. Imports no torch."""

import glob
import hashlib
import io
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from bcos_cli.data.splits import TEST, usual_split
from bcos_core.errors import BcosError
from bcos_core.text import listed
from bcos_models.images import eight_bits, usual_range


@dataclass(frozen=True)
class ImageItem:
    """One labelled image of a source."""

    path: str
    """Where it is in the source; messages call it so."""
    split: str
    label: int | tuple[int, ...]
    """Index of its class; a tuple, in all images of a source, if they have any number of classes."""
    bytes: int = 0
    """Size of the encoded image, by which shards are bounded; 0 if it is not known."""

    @property
    def extension(self) -> str:
        """File name extension without the dot."""
        return PurePosixPath(self.path).suffix.lower().removeprefix(".")


@runtime_checkable
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


def warnings_of(source: ImageSource) -> list[str]:
    """Say what may be meant otherwise: a single class, classes without images, or images both tested and trained on."""
    found = []
    classes = source.classes
    if len(classes) == 1:
        found.append(
            f"there is one class, {classes[0]!r}, so there is nothing to learn; if its folders are the classes, pack "
            "the folder that holds them"
        )
    folders = _folders(source)
    same = folders[min(folders)] if len(folders) > 1 else set()
    if len(same) > 1 and all(same == names for names in folders.values()) and not any(map(usual_split, same)):
        found.append(
            f"all classes ({_some(classes)}) hold folders of the same names ({_some(sorted(same))}); if those are the "
            "classes, rename the folders above them to train, val or test"
        )
    if empty := [name for label, name in enumerate(classes) if label not in folders]:
        remedy = f"; leave out what is no class with {_excluded(empty, source)}" if hasattr(source, "left_out") else ""
        found.append(f"{len(empty)} of {len(classes)} classes have no images: {_some(empty)}{remedy}")
    if (tested := {label for item in source.items if item.split == TEST for label in _labels(item)}) and (
        untested := [name for label, name in enumerate(classes) if label in folders and label not in tested]
    ):
        found.append(f"{len(untested)} of {len(classes)} classes have no images in the split 'test': {_some(untested)}")
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            found.append(f"the classes {' and '.join(map(repr, names))} differ by case or blanks alone; are they one?")
    copies = _copies(source)
    split = [same for same in copies if len({item.split == TEST for item in same}) > 1]
    if again := [item.path for same in split for item in same if item.split == TEST]:
        found.append(
            f"{len(again):,} images of 'test' are in other splits too, byte for byte ({_some(again)}); scores on them "
            "say little: remove them, or leave them out with --exclude"
        )
    if contradictory := [same for same in copies if _labelled_twice(same)]:
        pairs = [" and ".join(sorted(item.path for item in same)[:2]) for same in contradictory]
        found.append(
            f"{len(pairs):,} images are in several classes, byte for byte ({_some(pairs)}); keep one copy, or give all "
            "labels of an image in a table (--labels)"
        )
    return found


def _labels(item: ImageItem) -> tuple[int, ...]:
    return item.label if isinstance(item.label, tuple) else (item.label,)


def _labelled_twice(same: list[ImageItem]) -> bool:
    """Whether copies of an image have different labels in one split."""
    labels: dict[str, set[object]] = {}
    for item in same:
        labels.setdefault(item.split, set()).add(item.label)
    return any(len(found) > 1 for found in labels.values())


def _copies(source: ImageSource) -> list[list[ImageItem]]:
    """Return the images that are there several times, byte for byte. Only images of equal sizes are read."""
    kinds: dict[int, set[tuple[bool, object]]] = {}
    for item in source.items:
        kinds.setdefault(item.bytes, set()).add((item.split == TEST, item.label))
    same: dict[bytes, list[ImageItem]] = {}
    for item in source.items:
        if len(kinds[item.bytes]) > 1:  # copies of one kind do no harm
            with suppress(Exception):  # archives raise many types; packing tells of what cannot be read
                same.setdefault(hashlib.sha256(source.read(item)[0]).digest(), []).append(item)
    return [items for items in same.values() if len(items) > 1]


def _excluded(folders: list[str], source: ImageSource) -> str:
    """Return the options that leave out the folders of classes, for a shell."""
    above = "" if all(item.path.split("/")[0] in source.classes for item in source.items) else "**/"
    options = [f"--exclude {shlex.quote(above + glob.escape(name))}" for name in folders[:5]]
    return " ".join(options) + (" ..." if len(folders) > 5 else "")


def _folders(source: ImageSource) -> dict[int, set[str]]:
    """Return for each class that has images the names of the last folders of their paths, below that of the class."""
    found: dict[int, set[str]] = {}
    for item in source.items:
        for label in _labels(item):
            *above, folder, _ = ("", *item.path.split("/"))
            found.setdefault(label, set()).add(folder if source.classes[label] in above else "")
    return found


def _some(names: list[str]) -> str:
    return listed(map(repr, names))


def split_off_test(items: list[ImageItem], share: float) -> list[ImageItem]:
    """Put a share of the images into the split ``test``.

    The path of an image decides, and nothing else: it keeps its split when others come or go. The share is therefore
    met on average, and :func:`share_drawn` says how far it is off.

    Raises:
        BcosError: the share is outside (0, 1), or the images are split already.
    """
    if not 0 < share < 1:
        raise BcosError(f"the share of test images must be between 0 and 1, got {share}")
    if len({item.split for item in items}) > 1:
        raise BcosError("the images are split already; leave out --test-share")
    return [replace(item, split=TEST) if _drawn(item.path) < share else item for item in items]


def _drawn(path: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the path, which may not be valid text."""
    return int(hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:12], 16) / 16**12


def share_drawn(source: ImageSource, share: float) -> str:
    """Say which share of the images :func:`split_off_test` has put into ``test``, and of which class least and most."""
    of_class: dict[int, list[bool]] = {}
    for item in source.items:
        for label in _labels(item):
            of_class.setdefault(label, []).append(item.split == TEST)
    ordered = sorted(of_class, key=lambda label: sum(of_class[label]) / len(of_class[label]))
    drawn = sum(item.split == TEST for item in source.items)
    text = (
        f"test: {drawn:,} of {len(source.items):,} images, {drawn / len(source.items):.1%} where {share:.1%} were asked"
    )
    ends = [
        f"{sum(of_class[label]):,} of {len(of_class[label]):,} of {source.classes[label]!r}"
        for label in (ordered[0], ordered[-1])
    ]
    if len(ordered) > 1:
        text += f"; from {ends[0]} to {ends[1]}"
    return f"{text}. Each path decides by itself, so that images keep their split when others come"


@dataclass(frozen=True)
class ArraySource:
    """Images in memory, packed as PNG: what built-in and torchvision data sets give."""

    classes: list[str]
    items: list[ImageItem]
    pngs: dict[str, bytes]
    """Encoded images by their paths."""

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Return the PNG."""
        return self.pngs[item.path], "png"


def encode_png(image: object) -> bytes:
    """Encode a PIL image, or an array (H, W) or (H, W, 3) of integers from 0 to 255 or floats from 0 to 1, as PNG.

    Raises:
        BcosError: other values.
    """
    if not isinstance(image, Image.Image):
        values = np.asarray(image)
        is_byte = values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255
        image = Image.fromarray(
            values.astype(np.uint8) if is_byte else eight_bits(values, usual=usual_range(values.dtype))
        )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
