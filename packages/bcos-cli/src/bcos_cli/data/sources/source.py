"""A source of labelled images, which can be packed, and one of images in memory. Imports no torch."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from PIL import Image

from bcos_core.errors import BcosError


@dataclass(frozen=True)
class ImageItem:
    """One labelled image of a source."""

    path: str
    """Where it is in the source; messages call it so."""
    split: str
    label: int | tuple[int, ...]
    """Index of its class; a tuple, in all images of a source, if they have any number of classes."""
    version: str = ""
    """What changes with its content, such as the size in bytes, so that a changed source is noticed."""

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


def split_off_test(items: list[ImageItem], share: float) -> list[ImageItem]:
    """Put a share of the images into the split ``test``; the paths decide which, so they are always the same.

    Raises:
        BcosError: the share is outside (0, 1), or the images are split already.
    """
    if not 0 < share < 1:
        raise BcosError(f"the share of test images must be between 0 and 1, got {share}")
    if len({item.split for item in items}) > 1:
        raise BcosError("the images are split already; leave out --test-share")
    chosen = [int(hashlib.sha256(item.path.encode()).hexdigest()[:12], 16) < share * 16**12 for item in items]
    return [replace(i, split="test") if test else i for i, test in zip(items, chosen, strict=True)]


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
    """Encode a PIL image, or an array (H, W) or (H, W, 3) of 8-bit values, as PNG."""
    import numpy as np

    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, dtype=np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
