"""Uploaded files, which strangers may have made: the formats that are decoded, and the limits on size."""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bcos_cli.data.image_decoder import FORMATS, CutOffError, UnreadableImageError, opened
from bcos_cli.data.input_image import InputImage, prepare
from bcos_core.errors import BcosError
from bcos_models import InputSpec

READ = ("PNG", "JPEG", "WebP", "BMP", "GIF", "TIFF")
"""Formats that the page takes; other commands read more."""
SUFFIXES = tuple(suffix for name in READ for suffix in FORMATS[name])
_PARALLEL = 4
_KEPT_FILES = 1000
_FORM = 2**16
"""Bytes of a request besides its file."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on the size and number of uploads.

    Raises:
        BcosError: a limit that is not finite, or less total space than one upload takes.
    """

    megabytes: float = 20
    """Size of the file, in units of 2²⁰ bytes, as Gradio counts."""
    megapixels: float = 64
    """Size of the decoded image, which may be large even if the file is small."""
    total_megabytes: float | None = None
    """Size of all files that are kept; the oldest are deleted. None for 25 times the largest file."""

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit is not None and not math.isfinite(limit):
                raise BcosError(f"--max-{name.replace('_', '-')} must be a number, got {limit}")
        if self.total_bytes < self.request_bytes:
            raise BcosError(
                f"all uploads together need room for one of {self.megabytes:g} MB and a little more, got "
                f"{self.total_megabytes:g} MB; give a larger --max-total-megabytes or a smaller --max-megabytes"
            )

    @property
    def bytes(self) -> int:
        """Size of the largest file."""
        return round(self.megabytes * 2**20)

    @property
    def request_bytes(self) -> int:
        """Size of the largest request."""
        return self.bytes + _FORM

    @property
    def total_bytes(self) -> int:
        """Size of all files that are kept."""
        return 25 * self.request_bytes if self.total_megabytes is None else round(self.total_megabytes * 2**20)

    @property
    def parallel(self) -> int:
        """Number of files that may be uploaded at a time: few enough that deleting others makes room for all."""
        return max(1, min(_PARALLEL, self.total_bytes // (2 * self.request_bytes)))


def make_room(folder: Path, room: int, files: int = _KEPT_FILES) -> None:
    """Delete the oldest uploads until those that are left have at most `room` bytes, and are at most `files`."""
    found = []
    for below, _, names in os.walk(folder):
        for path in (Path(below) / name for name in names):
            with suppress(FileNotFoundError):  # Gradio deletes files, too
                about = path.lstat()
                found.append((about.st_mtime_ns, about.st_size, path))
    for number, (_, size, path) in enumerate(sorted(found, reverse=True)):
        room -= size
        if room < 0 or number >= files:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # others are in it
                path.parent.rmdir()


def read_upload(path: Path, spec: InputSpec, limits: Limits, *, truncated: bool = False) -> InputImage:
    """Decode, resize and crop an uploaded image as the network was evaluated.

    Its first bytes tell its format, not its name. An animated image gives its first frame, and a
    JPEG that was cut off is read only if `truncated`.

    Raises:
        UnreadableImageError: too large a file or image, another format, or a damaged file.
    """
    try:
        size = path.stat().st_size
    except OSError as reason:
        raise UnreadableImageError("the file is no longer there; drop it again") from reason
    if size > limits.bytes:
        raise UnreadableImageError(
            f"the file has {size / 2**20:,.1f} MB, at most {limits.megabytes:g} MB are accepted; make it smaller, or "
            "serve with a larger --max-megabytes"
        )
    with opened(path, READ) as image:
        if image.width * image.height > limits.megapixels * 1e6:
            raise UnreadableImageError(
                f"the image has {image.width:,}×{image.height:,} pixels, at most {limits.megapixels:g} megapixels are "
                "decoded; make it smaller, or serve with a larger --max-megapixels"
            )
        try:
            return prepare(image, spec, truncated=truncated)
        except CutOffError as reason:
            raise reason.read_with("bcos serve --allow-truncated") from reason
