"""Moving pictures, written frame by frame: GIF and WebP, with one frame in memory at a time."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

from PIL import GifImagePlugin, Image, ImageChops

from bcos_core import BcosError
from bcos_core.files import replacement

AnimationFormat = Literal["gif", "webp"]
_OPAQUE = 128
"""Opacity (0 to 255) from which a pixel is shown in a GIF, which has no partial opacity."""
_PAGE, _HIDDEN = 254, 255
"""Palette entries of a GIF: the first pixel's colour, which is kept exactly, and transparency."""
_NO_BLENDING = 2
_CLEARED = 1
_ANIMATED, _TRANSPARENT = 0x02, 0x10


class AnimationWriter(Protocol):
    """Takes frames one by one."""

    def add(self, frame: Image.Image, milliseconds: float) -> None:
        """Show a frame, RGB or RGBA and of the first one's size, for a time."""


@contextmanager
def animation(path: str | Path, format: AnimationFormat) -> Iterator[AnimationWriter]:
    """Write an animation that repeats for ever; the file appears complete, or not at all on an error.

    Raises:
        BcosError: another format, no frame, or frames of different sizes.
    """
    if format not in get_args(AnimationFormat):
        raise BcosError(f"animations can be {', '.join(get_args(AnimationFormat))}, got {format!r}")
    with replacement(path) as aside, aside.open("wb") as file:
        writer = _Gif(file) if format == "gif" else _WebP(file)
        yield writer
        writer.finish()


class _Frames:
    """What both formats share: one size, and times without accumulated rounding."""

    unit = 1
    """Milliseconds in which times are written."""
    shortest = 1

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size: tuple[int, int] | None = None
        self._owed = 0.0

    def check(self, frame: Image.Image) -> bool:
        """Whether this is the first frame."""
        if self.size is None:
            self.size = frame.size
            return True
        if frame.size != self.size:
            raise BcosError(f"all frames of an animation must be as large as the first, {self.size}, got {frame.size}")
        return False

    def time(self, milliseconds: float) -> int:
        """Return whole units; later frames make up for rounding."""
        self._owed += milliseconds
        units = max(self.shortest, round(self._owed / self.unit))
        self._owed -= units * self.unit
        return units

    def finish(self) -> None:
        """Check that there is a frame."""
        if self.size is None:
            raise BcosError("an animation needs at least one frame")


class _Gif(_Frames):
    """Every frame has 256 colours of its own."""

    unit = 10
    shortest = 2  # browsers show shorter frames ten times as long

    def add(self, frame: Image.Image, milliseconds: float) -> None:
        if self.check(frame):
            self.file.write(b"GIF89a" + struct.pack("<HHBBB", *frame.size, 0x70, 0, 0))
            self.file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", 0) + b"\0")
        options: dict[str, Any] = {"duration": self.time(milliseconds) * self.unit, "include_color_table": True}
        palette = _paletted(frame.convert("RGB"))
        if "A" in frame.getbands():
            hidden = frame.getchannel("A").point(lambda value: 255 * (value < _OPAQUE))
            palette.paste(_HIDDEN, mask=hidden)
            options |= {"transparency": _HIDDEN, "disposal": 2}
        for part in GifImagePlugin.getdata(palette, **options):
            self.file.write(part)

    def finish(self) -> None:
        super().finish()
        self.file.write(b";")


class _WebP(_Frames):
    """Lossless; each frame is a picture of its own in the container of the format's specification."""

    def add(self, frame: Image.Image, milliseconds: float) -> None:
        if self.check(frame):
            width, height = (n - 1 for n in frame.size)
            flags = _ANIMATED | (_TRANSPARENT if "A" in frame.getbands() else 0)
            header = bytes([flags, 0, 0, 0]) + _three_bytes(width) + _three_bytes(height)
            self.file.write(b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", header) + _chunk(b"ANIM", bytes(6)))
        encoded = io.BytesIO()
        frame.save(encoded, format="webp", lossless=True, method=4, exif=b"", xmp=b"", icc_profile=b"")
        picture = encoded.getvalue()[12:]  # without metadata one chunk follows the header
        place = bytes(6) + _three_bytes(frame.width - 1) + _three_bytes(frame.height - 1)
        shown = _three_bytes(self.time(milliseconds)) + bytes([_NO_BLENDING | _CLEARED])
        self.file.write(_chunk(b"ANMF", place + shown + picture))

    def finish(self) -> None:
        super().finish()
        size = self.file.tell()
        self.file.seek(4)
        self.file.write(struct.pack("<I", size - 8))


def _paletted(rgb: Image.Image) -> Image.Image:
    """Reduce to 256 colours, the last one unused; dithered, except for the colour of the first pixel: the page."""
    few = rgb.quantize(_PAGE, kmeans=1)  # without k-means the ends of colour scales get lost
    colours = (few.getpalette() or [])[: 3 * _PAGE]
    page = rgb.crop((0, 0, 1, 1))
    few.putpalette(bytes(colours).ljust(3 * _PAGE, b"\0") + page.tobytes() + b"\0\0\0")
    paletted = rgb.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG)
    red, green, blue = ImageChops.difference(rgb, page.resize(rgb.size)).split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    paletted.paste(_PAGE, mask=largest.point(lambda value: 255 * (value == 0)))
    return paletted


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _three_bytes(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
