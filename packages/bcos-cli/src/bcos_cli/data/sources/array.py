"""Images in memory as a source: what built-in and torchvision data sets give. Imports no torch."""

import io
from dataclasses import dataclass

from PIL import Image

from bcos_cli.data.sources.source import ImageItem


@dataclass(frozen=True)
class ArraySource:
    """Images in memory, packed as PNG."""

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
