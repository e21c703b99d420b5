"""Files that strangers may have made: what is decoded of them, and up to which size."""

from dataclasses import dataclass
from pathlib import Path

from bcos_cli.images import Loaded, UnreadableImageError, opened, read_image
from bcos_models import InputSpec

FORMATS = "PNG, JPEG, WebP, BMP, GIF and TIFF"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"BM",
    b"GIF87a",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
)
"""First bytes of files in these formats, of WebP see :func:`_is_known`; the last two are of large TIFF files."""


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
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as reason:
        raise UnreadableImageError("the file is no longer there; drop it again") from reason
    if size > limits.bytes:
        raise UnreadableImageError(
            f"the file has {size / 2**20:,.1f} MB, at most {limits.megabytes:g} MB are taken; make it smaller, or "
            "serve with a larger --max-megabytes"
        )
    if not _is_known(start):
        what = "the file is empty" if size == 0 else "this is no image, or of another format"
        raise UnreadableImageError(f"{what}; {FORMATS} are read")
    with opened(path) as image:
        pixels = image.width * image.height
        if pixels > limits.megapixels * 1e6:
            raise UnreadableImageError(
                f"the image has {image.width:,}×{image.height:,} pixels, at most {limits.megapixels:g} megapixels are "
                "decoded; make it smaller, or serve with a larger --max-megapixels"
            )
    return read_image(path, spec)


def _is_known(start: bytes) -> bool:
    """Whether a file that starts like this is of one of the formats."""
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
