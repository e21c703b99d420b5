"""Files that strangers may have made: what is decoded of them, and up to which size."""

from dataclasses import dataclass
from pathlib import Path

from bcos_cli.data.decoding import FORMATS, UnreadableImageError, opened
from bcos_cli.images import Loaded, read_opened
from bcos_models import InputSpec

READ = ("PNG", "JPEG", "WebP", "BMP", "GIF", "TIFF")
"""Formats, of those that other commands read, that the page takes."""
SUFFIXES = tuple(suffix for name in READ for suffix in FORMATS[name])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large uploads may be."""

    megabytes: float = 20
    """Of the file, in units of 2²⁰ bytes, as Gradio counts."""
    megapixels: float = 64
    """Of the decoded image, which a small file can hide."""

    @property
    def bytes(self) -> int:
        """Size of the largest file."""
        return round(self.megabytes * 2**20)


def read_upload(path: Path, spec: InputSpec, limits: Limits) -> Loaded:
    """Decode, resize and crop an uploaded image as the network was evaluated.

    Its format is what its first bytes say, whatever it is called. Of an animated image, the first frame.

    Raises:
        UnreadableImageError: too large a file or image, another format, or a damaged file.
    """
    try:
        size = path.stat().st_size
    except OSError as reason:
        raise UnreadableImageError("the file is no longer there; drop it again") from reason
    if size > limits.bytes:
        raise UnreadableImageError(
            f"the file has {size / 2**20:,.1f} MB, at most {limits.megabytes:g} MB are taken; make it smaller, or "
            "serve with a larger --max-megabytes"
        )
    with opened(path, READ) as image:
        if image.width * image.height > limits.megapixels * 1e6:
            raise UnreadableImageError(
                f"the image has {image.width:,}×{image.height:,} pixels, at most {limits.megapixels:g} megapixels are "
                "decoded; make it smaller, or serve with a larger --max-megapixels"
            )
        return read_opened(image, spec)
