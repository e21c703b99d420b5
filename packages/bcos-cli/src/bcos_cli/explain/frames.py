"""Frames of videos and animated images, one at a time."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from bcos_cli.data.image_decoder import UnreadableImageError, check_size, opened, unreadable
from bcos_cli.explain.image_files import VIDEO_SUFFIXES, ImageFile

_ANIMATED = ("GIF", "WEBP", "PNG")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""Containers that FFmpeg may read; others, such as playlists, name files or addresses that it would open."""
_UNTIMED = 100.0
"""Milliseconds for which browsers show a frame without a time."""


@dataclass(frozen=True)
class Frame:
    """A picture, and how long it is shown."""

    image: Image.Image
    milliseconds: float


def is_clip(path: Path) -> bool:
    """Whether a file is a video by its name, or an image with several frames.

    A file that cannot be opened is not a clip; reading it as an image says why.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    try:
        with opened(path) as image:
            return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))
    except UnreadableImageError:
        return False


def in_groups(files: Sequence[ImageFile], size: int) -> Iterator[list[ImageFile] | ImageFile]:
    """Yield images in groups of `size`, each clip alone, in order."""
    group: list[ImageFile] = []
    for file in files:
        clip = is_clip(file.path)
        if group and (clip or len(group) == size):
            yield group
            group = []
        if clip:
            yield file
        else:
            group.append(file)
    if group:
        yield group


def frames(path: Path, every: int = 1) -> Iterator[Frame]:
    """Yield one in `every` frames of a clip, shown as long as all of these.

    Raises:
        UnreadableImageError: a damaged file, one without frames, or a video without PyAV installed.
    """
    source = _video_frames(path) if path.suffix.lower() in VIDEO_SUFFIXES else _image_frames(path)
    kept: Frame | None = None
    for i, frame in enumerate(source):
        if kept is None or i % every == 0:
            if kept is not None:
                yield kept
            kept = frame
        else:
            kept = replace(kept, milliseconds=kept.milliseconds + frame.milliseconds)
    if kept is None:
        raise UnreadableImageError("holds no frames")
    yield kept


def _image_frames(path: Path) -> Iterator[Frame]:
    with opened(path) as image:
        # counting the frames of a GIF means reading all of them, perhaps a million
        promised = None if image.format == "GIF" else getattr(image, "n_frames", 1)
        for i in itertools.count() if promised is None else range(promised):
            try:
                image.seek(i)
            except EOFError:
                if promised is None:
                    return
                raise
            check_size(*image.size)  # a GIF may grow from frame to frame
            image.load()
            yield Frame(image.copy(), float(image.info.get("duration") or _UNTIMED))


def _video_frames(path: Path) -> Iterator[Frame]:
    av = _pyav()
    # an open file: FFmpeg might take its name for an address
    with unreadable(), path.open("rb") as file, av.open(file, options={"format_whitelist": _CONTAINERS}) as container:
        if not container.streams.video:
            raise UnreadableImageError("holds no video")
        stream = container.streams.video[0]
        usual = 1000 / float(stream.average_rate) if stream.average_rate else _UNTIMED
        previous: Any = None
        check_size(stream.codec_context.width, stream.codec_context.height)
        for frame in container.decode(stream):
            if previous is not None:
                yield _frame(previous, _between(previous, frame, usual))
            previous = frame
        if previous is not None:
            yield _frame(previous, usual)


def _frame(frame: Any, milliseconds: float) -> Frame:
    check_size(frame.width, frame.height)
    image: Image.Image = frame.to_image()
    turned = getattr(frame, "rotation", 0)
    return Frame(image.rotate(turned, expand=True) if turned else image, milliseconds)


def _between(frame: Any, following: Any, usual: float) -> float:
    """Return the milliseconds from one frame to the next."""
    if frame.time is None or following.time is None or following.time <= frame.time:
        return usual
    return float(following.time - frame.time) * 1000


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as reason:
        raise UnreadableImageError("a video needs PyAV; install it with: pip install 'bcos-cli[video]'") from reason
    module: ModuleType = av
    return module
