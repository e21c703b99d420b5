"""From encoded bytes to images as a person sees them. Imports no torch."""

import io

from PIL import Image

from bcos_models.images import as_seen

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""


def decode(data: bytes, channels: int) -> Image.Image:
    """Decode an image to greyscale (1 channel) or RGB (3 channels)."""
    with Image.open(io.BytesIO(data)) as image:
        return as_seen(image, channels)
