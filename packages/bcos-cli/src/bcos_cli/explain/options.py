"""Options of pictures and clips."""

from dataclasses import dataclass
from typing import Literal, get_args

from bcos_core.errors import BcosError
from bcos_explain.render import Background
from bcos_explain.render.animation import AnimationFormat
from bcos_explain.render.files import FORMATS

Layout = Literal["side-by-side", "overlay", "separate"]
ScaleSharing = Literal["own", "shared"]

SMALLEST_SIDE, LARGEST_SIDE = 16, 4096


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Pictures of still images.

    Raises:
        BcosError: a value that an option does not take.
    """

    layouts: tuple[Layout, ...] = ("side-by-side", "separate")
    """``side-by-side``: input, W and contributions in one picture; ``overlay``: the same over the input in grey;
    ``separate``: a file for each, without text."""
    contact_sheet: bool = False
    """Also one sheet for all images, in pages."""
    format: str = "png"
    """``png``, ``svg`` or ``webp``."""
    scale: ScaleSharing = "own"
    """Whether each image has its own scale of colour and opacity, or all share one."""
    colorbar: bool = True
    background: Background | None = None
    """Colour behind transparent parts. None is white where there is text, and nothing in separate pictures."""
    side: int | None = None
    """Width of each picture in pixels; None for about 224, each pixel of the input a square."""
    raw_weight: bool = False
    """Also write W itself as an array."""
    smooth: int | None = None
    """Side of the mean filter over the opacity of W, odd; None for one in proportion to the image."""

    def __post_init__(self) -> None:
        for layout in self.layouts:
            _one_of("layout", layout, get_args(Layout))
        _one_of("format", self.format, FORMATS)
        _one_of("scale", self.scale, get_args(ScaleSharing))
        _one_of("background", self.background or "white", get_args(Background))
        if self.smooth is not None and (self.smooth < 1 or self.smooth % 2 == 0):
            raise BcosError(f"smooth must be odd and at least 1, got {self.smooth}; use 1 for no smoothing")
        if self.side is not None and not SMALLEST_SIDE <= self.side <= LARGEST_SIDE:
            raise BcosError(f"size must be from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, got {self.side}")

    @property
    def page(self) -> Background:
        """Background of pictures with text."""
        return self.background or "white"


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Videos and animated images.

    Raises:
        BcosError: a value that an option does not take.
    """

    format: AnimationFormat = "gif"
    max_frames: int = 300
    """Largest number of frames to explain in a clip."""
    every: int = 1
    """Explain one in this many frames, and show it as long as all of them."""

    def __post_init__(self) -> None:
        _one_of("animation", self.format, get_args(AnimationFormat))
        if self.max_frames < 1 or self.every < 1:
            raise BcosError(f"max_frames and every must be at least 1, got {self.max_frames} and {self.every}")


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise BcosError(f"{what} must be one of {', '.join(known)}, got {given!r}")
