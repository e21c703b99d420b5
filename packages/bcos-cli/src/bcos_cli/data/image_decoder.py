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
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcos_cli.data.pixels import Pixels
from bcos_core.errors import BcosError, first_line
from bcos_models.images import as_seen, eight_bits, orientation, usual_range

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile
    from torch import Tensor

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "NPY": (".npy",),
}
"""Formats that are read, and the usual suffixes of their files. NPY: arrays (H, W) or (H, W, C) of :func:`numpy.save`,
for images of any number of channels."""
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LARGEST = 2**28
"""Pixels of the largest image that is decoded: 268 megapixels of at most 4 bytes, and as many again for each step on
the way to a network: turning upright, laying on white, converting."""
MOST_BYTES = 2**31
"""Bytes of the largest file that is read."""
FIRST_OF_SEVERAL = "the first of several frames or pages"
ENDS_BLACK = "cut off: black where it ends"
PARTIAL = (FIRST_OF_SEVERAL, ENDS_BLACK)
"""What may be said of an image that is not read as a whole."""
_CUT_OFF = "cut off"
"""Key of the ``info`` of images that are read as far as they go."""
_ORIENTATIONS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Texts of a PNG that say how it must be turned."""
_JPEG = b"\xff\xd8\xff"
_JPEGS = ("JPEG", "MPO")
"""Pillow's names of what starts with it."""
_NPY = b"\x93NUMPY"
_SAMPLES_PER_PIXEL, _PLANAR, _BITS_PER_SAMPLE = 277, 284, 258
"""Tags of a TIFF."""


class UnreadableImageError(BcosError):
    """An image that cannot be shown to a network; the message says why."""


class CutOffError(UnreadableImageError):
    """A JPEG that ends too early; its message is the problem and, after a semicolon, what reads it nevertheless."""

    def read_with(self, option: str) -> "CutOffError":
        """Return the same problem with the option of the command that runs."""
        return CutOffError(f"{str(self).partition(';')[0]}; {option} reads what there is")


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


def decode(source: Path | bytes, pixels: Pixels) -> Image.Image | NDArray[np.uint8]:
    """Decode an image of 1 or 3 channels, as a person sees it, or 8-bit (H, W, C) of another number.

    Raises:
        UnreadableImageError: with the reason.
    """
    return decode_part(source, pixels)[0]


def decode_part(source: Path | bytes, pixels: Pixels) -> tuple[Image.Image | NDArray[np.uint8], tuple[str, ...]]:
    """Decode an image as :func:`decode`, and say where that is not all of it, in words of :data:`PARTIAL`."""
    with unreadable():
        if (array := read_array(source)) is not None:
            return array_as_seen(array, pixels), ()
    with opened(source) as image:
        decoded = as_channels(image, pixels)
        return decoded, unread_parts(image, pixels.channels)


def unread_parts(image: Image.Image, channels: int) -> tuple[str, ...]:
    """Say in words of :data:`PARTIAL` what of an image :func:`as_channels` has not read."""
    try:
        is_first = channels in (1, 3) and bool(getattr(image, "is_animated", False))
    except Exception:  # there is more, which is damaged; decoders raise many types
        is_first = True
    parts = {FIRST_OF_SEVERAL: is_first, ENDS_BLACK: _CUT_OFF in image.info}
    return tuple(part for part, applies in parts.items() if applies)


def as_channels(image: Image.Image, pixels: Pixels) -> Image.Image | NDArray[np.uint8]:
    """Give an image that :func:`opened` has opened the form of :func:`decode`, or raise a BcosError."""
    bands, channels = len(image.getbands()), pixels.channels
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined] # reason: that of TIFF images
        stored = tags.get(_SAMPLES_PER_PIXEL, 1)
        if stored > bands or (tags.get(_PLANAR) == 2 and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8):
            raise BcosError(
                f"a TIFF of {stored} bands, which Pillow does not read; write it as an array (H, W, {stored}) "
                "with numpy.save"
            )
    if image.format in _JPEGS:
        load(image, pixels.truncated)
    if channels in (1, 3):
        return as_seen(image, channels, pixels.range)
    if image.format == "TIFF" and bands == 1 and getattr(image, "n_frames", 1) == channels:
        pages = []
        for page in range(channels):
            image.seek(page)
            check_size(image.width, image.height * channels)
            pages.append(np.asarray(as_seen(image, 1, pixels.range)))
        return np.stack(pages, -1)
    if bands != channels:
        raise _other_channels(bands, channels)
    turn = orientation(image)
    return np.asarray(image if turn is None else image.transpose(turn))


def array_as_seen(array: NDArray[Any], pixels: Pixels) -> Image.Image | NDArray[np.uint8]:
    """Give an array (H, W) or (H, W, C) the form of :func:`decode`, or raise a BcosError."""
    if array.ndim not in (2, 3) or not array.size:
        raise BcosError(f"an array of shape {array.shape}; images have (H, W) or (H, W, C)")
    check_size(*array.shape[1::-1])
    values = eight_bits(array, pixels.range, usual_range(array.dtype))
    found = 1 if values.ndim == 2 else values.shape[2]
    if pixels.channels in (1, 3) and found in (1, 3):
        return as_seen(Image.fromarray(values if found == 3 else values.reshape(values.shape[:2])), pixels.channels)
    if found != pixels.channels:
        raise _other_channels(found, pixels.channels)
    return values


def read_array(source: Path | bytes) -> NDArray[Any] | None:
    """Return the array that :func:`numpy.save` wrote; None for other files. Nothing is unpickled."""
    with _stream(source) as stream:
        if stream.read(len(_NPY)) != _NPY:
            return None
        stream.seek(0)
        npy = np.lib.format
        header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = header(stream)
        array = np.frombuffer(stream.read(), dtype)  # as many as there are, whatever the header says
        return array.reshape(shape, order="F" if is_fortran else "C")


def _other_channels(found: int, channels: int) -> BcosError:
    remedy = f"; for a network of {found}, pack with --channels {found}" if channels in (1, 3) else ""
    return BcosError(f"it has {found} channels, {channels} are needed{remedy}")


def load(image: Image.Image, truncated: bool) -> None:
    """Decode an image; one of JPEG that was cut off, as far as it goes or not.

    Pillow's own switch is one for all threads.
    """
    try:
        image.load()
    except OSError as reason:
        if image.format not in _JPEGS or "truncated" not in str(reason):
            raise
        if not truncated:
            raise CutOffError(
                f"cut off: {reason}; --allow-truncated, or data.truncated=allow, reads what there is"
            ) from reason
        image.tile = []  # type: ignore[attr-defined] # reason: of files; nothing more is to be decoded
        image.info[_CUT_OFF] = True


def quick_decode(data: bytes, pixels: Pixels) -> "Image.Image | NDArray[np.uint8] | Tensor":
    """Decode a JPEG with torchvision to 8 bits, (C, H, W); anything else, and what it cannot decode, with Pillow.

    Raises:
        UnreadableImageError: neither can.
    """
    if pixels.channels not in (1, 3) or not data.startswith(_JPEG):
        return decode(data, pixels)
    with opened(data) as image:
        import torch
        from torchvision.io import ImageReadMode, decode_image

        mode = ImageReadMode.GRAY if pixels.channels == 1 else ImageReadMode.RGB
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a copy: a tensor must be writable
        try:
            with warnings.catch_warnings():  # of torchvision 0.29: a later one will leave this to TorchCodec
                warnings.simplefilter("ignore", DeprecationWarning)
                decoded: Tensor = decode_image(encoded, mode, apply_exif_orientation=True)
        except RuntimeError:  # four colours, or damaged: Pillow says how
            return as_channels(image, pixels)
        return decoded


@contextmanager
def unreadable() -> Iterator[None]:
    """Turn whatever decoders raise for damaged images into one type of error."""
    try:
        yield
    except UnreadableImageError:
        raise
    except BcosError as reason:
        raise UnreadableImageError(str(reason)) from reason
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
                return factory(_without_texts(stream) if name == "PNG" else stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as reason:
                raise UnreadableImageError(f"cannot be read: a damaged {name} ({first_line(reason)})") from reason
    *most, last = formats
    raise UnreadableImageError(f"cannot be read: {problem}; {', '.join(most)} and {last} are read")


def _without_texts(stream: IO[bytes]) -> IO[bytes]:
    """Return a PNG without its texts, of which Pillow reads so much and no more; its pixels are not in them."""
    signature, spans, position = stream.read(8), [], 8
    has_texts = False
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt") and not stream.read(24).startswith(_ORIENTATIONS):
            has_texts = True
        else:
            spans.append((position, length + 12))
        if kind == b"IEND":  # what follows is no part of it
            break
        position += length + 12
        stream.seek(position)
    if has_texts:
        parts = [signature]
        for start, size in spans:
            stream.seek(start)
            parts.append(stream.read(size))
        stream.close()
        stream = io.BytesIO(b"".join(parts))
    stream.seek(0)
    return stream


def _why(reason: Exception) -> str:
    if isinstance(reason, PermissionError):
        return "may not be read: permission denied"
    if isinstance(reason, MemoryError):
        return "cannot be read: it takes more memory than there is"
    return f"cannot be read: {getattr(reason, 'strerror', None) or first_line(reason)}"
