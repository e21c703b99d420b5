"""How the pixels of a data set are read. Imports neither torch nor NumPy, for commands that read none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pixels:
    """How pixels are read where files do not say it themselves: the same for all images of a data set."""

    channels: int = 3
    """1 for greyscale, 3 for RGB, to which images are converted; of any other number an image must have as many."""
    range: tuple[float, float] | None = None
    """The values that are black and white in images of more than 8 bits; None for those of the format."""
    truncated: bool = False
    """Read JPEGs that were cut off, with black in place of what is missing; otherwise they are unreadable."""


USUAL = Pixels()
