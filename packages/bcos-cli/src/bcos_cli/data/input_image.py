"""The way of an image, from a file or memory, to what a network sees of it."""

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bcos_cli.data.image_decoder import opened, unreadable
from bcos_models import InputSpec
from bcos_models.images import as_seen, orientation
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


def inference_transform(spec: InputSpec) -> v2.Compose:
    """Return the resizing and centre crop with which the model was evaluated: PIL image → 8-bit (C, H, W)."""
    return v2.Compose([resize_and_crop(spec), v2.PILToTensor()])


def read_image(path: Path, spec: InputSpec) -> InputImage:
    """Decode, resize and crop a file as the network was evaluated, or raise :class:`UnreadableImageError`."""
    with opened(path) as image:
        return prepare(image, spec)


def prepare(image: Image.Image, spec: InputSpec) -> InputImage:
    """Resize and crop an image, decoded or not, as the network was evaluated, or raise an UnreadableImageError."""
    with unreadable():
        size = image.size
        if image.format == "JPEG" and image.width * image.height > _DRAFT_FROM:
            shrink = min(size) / (4 * (spec.resize or spec.size))
            image.draft(None, (round(image.width / shrink), round(image.height / shrink)))
        upright = as_seen(image, spec.channels)
        if upright.size != image.size:
            size = size[::-1]
        notes = _notes(image, size, spec)
    return InputImage(inference_transform(spec)(upright), size, notes)


def _notes(image: Image.Image, size: tuple[int, int], spec: InputSpec) -> tuple[str, ...]:
    is_transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    side = round(min(size) * min(1, spec.size / (spec.resize or spec.size)))
    is_cropped, is_squeezed = spec.resize is not None and side * side < math.prod(size), len(set(size)) > 1
    notes = {
        "turned upright, as its EXIF orientation says": orientation(image) is not None,
        "transparent parts laid on white, as in training": is_transparent,
        "converted from CMYK to RGB": image.mode == "CMYK",
        "converted from 16 bits to 8": image.mode.startswith("I"),
        "the first of several frames or pages": getattr(image, "is_animated", False),
        f"only its middle {side:,}×{side:,} is seen, {100 * side * side / math.prod(size):.2g} % of it": is_cropped,
        "squeezed to a square": spec.resize is None and is_squeezed,
    }
    return tuple(note for note, applies in notes.items() if applies)
