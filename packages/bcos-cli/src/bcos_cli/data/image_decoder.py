"""The one place where images are opened: from encoded bytes to pixels. Imports no torch.

Anybody may have made an image, and what a file holds decides which decoder runs. So only those named here may run:
Pillow knows others that start programs (EPS) or follow paths. The memory they take is bounded before they run.
"""

import io
import struct
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image

from bcos_core.errors import BcosError, first_line
from bcos_models.images import as_seen

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile
    from torch import Tensor

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
    "AVIF": (".avif",),
}
"""Formats that are read, and the usual suffixes of their files."""
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LARGEST = 2**28
"""Pixels of the largest image that is decoded: 268 megapixels of at most 4 bytes, and as many again for each step on
the way to a network: turning upright, laying on white, converting."""
MOST_BYTES = 2**31
"""Bytes of the largest file that is read."""


class UnreadableImageError(BcosError):
    """An image that cannot be shown to a network; the message says why."""


@contextmanager
def opened(source: Path | bytes, formats: Collection[str] = tuple(FORMATS)) -> Iterator[Image.Image]:
    """Open an image, which is decoded on use; whatever goes wrong inside the block counts as its fault.

    Raises:
        UnreadableImageError: with the reason; it does not name the image.
    """
    with unreadable(), _stream(source) as stream:
        image = _identified(stream, formats)
        check_size(*image.size)
        yield image


def decode(source: Path | bytes, channels: int) -> Image.Image:
    """Decode an image to greyscale (1 channel) or RGB (3 channels), or raise :class:`UnreadableImageError`."""
    with opened(source) as image:
        return as_seen(image, channels)


def quick_decode(data: bytes, channels: int) -> "Image.Image | Tensor":
    """Decode a JPEG with torchvision to 8 bits, (C, H, W); anything else, and what it cannot decode, with Pillow.

    Raises:
        UnreadableImageError: neither can.
    """
    with opened(data) as image:
        if image.format not in ("JPEG", "MPO"):
            return as_seen(image, channels)
        import torch
        from torchvision.io import ImageReadMode, decode_image

        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a copy: a tensor must be writable
        try:
            with warnings.catch_warnings():  # of torchvision 0.29: a later one will leave this to TorchCodec
                warnings.simplefilter("ignore", DeprecationWarning)
                decoded: Tensor = decode_image(encoded, mode, apply_exif_orientation=True)
        except RuntimeError:  # four colours, or damaged: Pillow says how
            return as_seen(image, channels)
        return decoded


@contextmanager
def unreadable() -> Iterator[None]:
    """Turn whatever decoders raise for damaged images into one type of error."""
    try:
        yield
    except BcosError:
        raise
    except Exception as reason:
        raise UnreadableImageError(_why(reason)) from reason


def check_size(width: int, height: int) -> None:
    """Raise :class:`UnreadableImageError` for an image of more than :data:`LARGEST` pixels."""
    if width * height > LARGEST:
        raise UnreadableImageError(
            f"too large: {width}×{height} pixels, at most {LARGEST / 1e6:.0f} megapixels are decoded; "
            "make it smaller first"
        )


def check_bytes(size: int) -> None:
    """Raise :class:`UnreadableImageError` for a file of more than :data:`MOST_BYTES`."""
    if size > MOST_BYTES:
        raise UnreadableImageError(
            f"too large: a file of {size / 1e9:,.1f} GB, images of up to {MOST_BYTES / 1e9:.1f} GB are read"
        )


def _stream(source: Path | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    check_bytes(source.stat().st_size)
    return source.open("rb")


def _identified(stream: IO[bytes], formats: Collection[str]) -> "ImageFile":
    """Return the image as far as its header says: format, size and mode.

    ``Image.open`` would do, but its limit is lower than ours, only a warning for some sizes, and shared by all threads.
    """
    start = stream.read(16)
    Image.init()
    problem = "the file is empty" if not start else "this is no image, or of another format"
    for name in formats:
        factory, accepts = Image.OPEN.get(name.upper(), (None, None))
        accepted = accepts(start) if accepts else False
        if isinstance(accepted, str):  # of a format that Pillow was built without
            problem = accepted
        elif accepted and factory:
            stream.seek(0)
            try:
                return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as reason:
                raise UnreadableImageError(f"cannot be read: a damaged {name} ({first_line(reason)})") from reason
    *most, last = formats
    raise UnreadableImageError(f"cannot be read: {problem}; {', '.join(most)} and {last} are read")


def _why(reason: Exception) -> str:
    if isinstance(reason, PermissionError):
        return "may not be read: permission denied"
    if isinstance(reason, MemoryError):
        return "cannot be read: it takes more memory than there is"
    return f"cannot be read: {getattr(reason, 'strerror', None) or first_line(reason)}"
