"""The way of an image, from a file or memory, to what a network sees of it."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bcos_cli import console
from bcos_cli.data.image_decoder import (
    ENDS_BLACK,
    FIRST_OF_SEVERAL,
    PARTIAL,
    CutOffError,
    array_as_seen,
    as_channels,
    opened,
    read_array,
    unread_parts,
    unreadable,
)
from bcos_cli.data.index import by_reason
from bcos_cli.data.pixels import Pixels
from bcos_models import InputSpec
from bcos_models.images import Range, orientation
from bcos_models.transforms import resize_and_crop

_DRAFT_FROM = 2**25
"""Pixels from which a JPEG is decoded at a fraction of its size, never below four times what the network sees."""


@dataclass(frozen=True)
class InputImage:
    """An image as the network gets it."""

    pixels: Tensor
    """8-bit (C, H, W)."""
    size: tuple[int, int]
    """Width and height of the original, turned upright."""
    notes: tuple[str, ...] = ()
    """What was done to it beside resizing."""


class PartlyRead:
    """Files of which the network gets a part."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def add(self, file: Path, image: InputImage) -> None:
        """Note an image that was read from a file, if that holds more."""
        for note in image.notes:
            if note in PARTIAL:
                self._files.setdefault(note, []).append(str(file))

    def tell(self) -> None:
        """Say on standard error how many there are, for each reason, with the first of them."""
        for files in by_reason(self._files):
            console.err.print(f"read in part {files}")


def inference_transform(spec: InputSpec) -> v2.Compose:
    """Return the resizing and centre crop with which the model was evaluated: PIL image → 8-bit (C, H, W)."""
    return v2.Compose([resize_and_crop(spec), v2.PILToTensor()])


def transformable(image: Image.Image | NDArray[np.uint8] | Tensor) -> Image.Image | Tensor:
    """Turn what decoders give into what transforms take: an array (H, W, C) into a tensor (C, H, W)."""
    return torch.tensor(image.transpose(2, 0, 1)) if isinstance(image, np.ndarray) else image


def read_image(path: Path, spec: InputSpec, *, truncated: bool = False) -> InputImage:
    """Decode, resize and crop a file as the network was evaluated, or raise :class:`UnreadableImageError`.

    Args:
        truncated: read a JPEG that was cut off.
    """
    with unreadable():
        if (array := read_array(path)) is not None:
            image = transformable(array_as_seen(array, Pixels(spec.channels, spec.range)))
            return InputImage(inference_transform(spec)(image), (array.shape[1], array.shape[0]))
    try:
        with opened(path) as opened_image:
            return prepare(opened_image, spec, truncated=truncated)
    except CutOffError as reason:
        raise reason.read_with("--allow-truncated") from reason


def prepare(image: Image.Image, spec: InputSpec, *, truncated: bool = False) -> InputImage:
    """Resize and crop an image, decoded or not, as the network was evaluated, or raise an UnreadableImageError."""
    with unreadable():
        size = image.size
        if image.format == "JPEG" and image.width * image.height > _DRAFT_FROM:
            shrink = min(size) / (4 * (spec.resize or spec.size))
            image.draft(None, (round(image.width / shrink), round(image.height / shrink)))
        upright = transformable(as_channels(image, Pixels(spec.channels, spec.range, truncated)))
        if v2.functional.get_size(upright) != [image.height, image.width]:
            size = size[::-1]
        notes = _notes(image, size, spec)
    return InputImage(inference_transform(spec)(upright), size, notes)


def _notes(image: Image.Image, size: tuple[int, int], spec: InputSpec) -> tuple[str, ...]:
    is_transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    side = round(min(size) * min(1, spec.size / (spec.resize or spec.size)))
    unread = unread_parts(image, spec.channels)
    is_cropped, is_squeezed = spec.resize is not None and side * side < math.prod(size), len(set(size)) > 1
    notes = {
        "turned upright, as its EXIF orientation says": orientation(image) is not None,
        "transparent parts laid on white, as in training": is_transparent,
        ENDS_BLACK: ENDS_BLACK in unread,
        "converted from CMYK to RGB": image.mode == "CMYK",
        f"more than 8 bits, of which {_said(spec.range)}, made 8": image.mode.startswith(("I", "F")),
        FIRST_OF_SEVERAL: FIRST_OF_SEVERAL in unread,
        f"only its middle {side:,}×{side:,} is seen, {100 * side * side / math.prod(size):.2g} % of it": is_cropped,
        "squeezed to a square": spec.resize is None and is_squeezed,
    }
    return tuple(note for note, applies in notes.items() if applies)


def _said(range: Range | None) -> str:
    return "the ends are black and white" if range is None else f"{range[0]:g} is black and {range[1]:g} white"
