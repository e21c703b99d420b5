"""From encoded bytes to images as a person sees them. Imports no torch."""

import io
import warnings
from typing import TYPE_CHECKING

from PIL import Image

from bcos_models.images import as_seen

if TYPE_CHECKING:
    from torch import Tensor

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""

_JPEG = b"\xff\xd8\xff"


def decode(data: bytes, channels: int) -> Image.Image:
    """Decode an image to greyscale (1 channel) or RGB (3 channels)."""
    with Image.open(io.BytesIO(data)) as image:
        return as_seen(image, channels)


def quick_decode(data: bytes, channels: int) -> "Image.Image | Tensor":
    """Decode a JPEG with torchvision to 8 bits, (C, H, W); anything else, and what it cannot, with Pillow."""
    if not data.startswith(_JPEG):
        return decode(data, channels)
    import torch
    from torchvision.io import ImageReadMode, decode_image

    mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a copy: a tensor must be writable
    try:
        with warnings.catch_warnings():  # which tell of torchvision 0.29 that a later one will leave this to TorchCodec
            warnings.simplefilter("ignore", DeprecationWarning)
            image: Tensor = decode_image(encoded, mode, apply_exif_orientation=True)
    except RuntimeError:  # four colours, or damaged: Pillow says how
        return decode(data, channels)
    return image
