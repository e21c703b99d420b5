"""Image files that a user names, ready for a network."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from bcos_cli.data.image_decoder import IMAGE_SUFFIXES, opened, unreadable
from bcos_cli.data.index import INDEX_NAME
from bcos_cli.data.transforms import inference_transform
from bcos_core.errors import BcosError
from bcos_models import InputSpec
from bcos_models.images import as_seen, orientation
from bcos_models.transforms import is_strip

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_DRAFT_FROM = 2**25
"""Pixels from which a JPEG is decoded at a fraction of its size, never below four times what the network sees."""
_LONGEST_NAME = 80
_RESERVED = ("contact-sheet", "explanations")


@dataclass(frozen=True)
class ImageFile:
    """A file, and a name for what is made of it that no other file of the same call has."""

    path: Path
    name: str


@dataclass(frozen=True)
class Failure:
    """A file or folder of which nothing could be explained."""

    file: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """An image as the network gets it."""

    pixels: Tensor
    """8-bit (C, H, W)."""
    size: tuple[int, int]
    """Width and height of the upright original."""
    notes: tuple[str, ...] = ()
    """What was done to it beside resizing."""


def find_images(paths: Sequence[str | Path]) -> tuple[list[ImageFile], list[Failure]]:
    """Return the files, and those with the name of an image or video in the folders, in order.

    Args:
        paths: files as they are; folders, searched with all below them, hidden files left out; or patterns with
            ``*``, ``?``, ``[...]`` and ``**``.

    Returns:
        The files, and the folders that hold none.

    Raises:
        BcosError: a path that is not there, a pattern that nothing matches, or no image at all.
    """
    found: list[Path] = []
    empty: list[Failure] = []
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    for path in [match for given in paths for match in _matches(str(given))]:
        if not path.is_dir():
            found.append(path)
            continue
        if (path / INDEX_NAME).is_file():
            raise BcosError(
                f"{str(path)!r} is a folder of shards; explain them with: bcos maps RUN --data {path} --out DIR"
            )
        below = sorted(
            p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file() and not _is_hidden(p, path)
        )
        found += below
        if not below:
            empty.append(Failure(str(path), f"no images in this folder; they end in {', '.join(suffixes)}"))
    if not found:
        raise BcosError(f"no images in {', '.join(map(str, paths))}; images end in {', '.join(suffixes)}")
    unique = list(dict.fromkeys(found))
    return [ImageFile(path, name) for path, name in zip(unique, _names(unique), strict=True)], empty


def _matches(given: str) -> list[Path]:
    path = Path(given)
    if path.exists():
        return [path]
    if not glob.has_magic(given):
        raise BcosError(f"there is no image or folder {given!r}; give files, folders or patterns of images")
    matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - reason: Path.glob takes no absolute patterns
    if not matches:
        raise BcosError(f"no file matches the pattern {given!r}")
    return [Path(match) for match in matches]


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _names(paths: list[Path]) -> Iterator[str]:
    """File names without extension and dots, not too long; numbered where the name is taken, however it is cased."""
    taken = set(_RESERVED)
    for path in paths:
        stem = path.stem.replace(".", "_")[:_LONGEST_NAME]
        name = stem
        number = 2
        while name.casefold() in taken:
            name = f"{stem}-{number}"
            number += 1
        taken.add(name.casefold())
        yield name


def load_image(path: Path, spec: InputSpec) -> Tensor:
    """Decode, resize and crop as the network was evaluated.

    Returns:
        8-bit (C, H, W).

    Raises:
        UnreadableImageError: the file is no image, is damaged, too large, or may not be read.
    """
    return read_image(path, spec).pixels


def read_image(path: Path, spec: InputSpec) -> Loaded:
    """As :func:`load_image`, with the original's size and what was done to it."""
    with opened(path) as image:
        return read_opened(image, spec)


def read_opened(image: Image.Image, spec: InputSpec) -> Loaded:
    """As :func:`read_image`, of an image that is not decoded yet."""
    if image.format == "JPEG" and image.width * image.height > _DRAFT_FROM:
        shrink = min(image.size) / (4 * (spec.resize or spec.size))
        image.draft(None, (round(image.width / shrink), round(image.height / shrink)))
    loaded = prepare(image, spec)
    return replace(loaded, notes=(*_notes(image), *loaded.notes))


def prepare(image: Image.Image, spec: InputSpec) -> Loaded:
    """An image in memory, resized and cropped as the network was evaluated.

    Raises:
        UnreadableImageError: it cannot be converted.
    """
    with unreadable():
        seen = as_seen(image, spec.channels)
    cut = spec.resize is not None and is_strip(*seen.size)
    notes = ("a long strip: only its middle is seen",) if cut else ()
    return Loaded(inference_transform(spec)(seen), seen.size, notes)


def _notes(image: Image.Image) -> Iterator[str]:
    if orientation(image) is not None:
        yield "turned upright, as its EXIF orientation says"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        yield "transparent parts laid on white, as in training"
    if image.mode == "CMYK":
        yield "converted from CMYK to RGB"
    if image.mode.startswith("I"):
        yield "converted from 16 bits to 8"
    if image.format in ("TIFF", "AVIF") and getattr(image, "is_animated", False):  # counting reads all of a file
        yield "the first of several pages"
