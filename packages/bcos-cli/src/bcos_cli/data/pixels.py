"""How pixels are read, and the options that say it. Imports neither torch nor NumPy, for commands that read none."""

from dataclasses import dataclass
from typing import Annotated

import typer

RangeOption = Annotated[
    str | None,
    typer.Option(
        "--range",
        help="BLACK:WHITE, such as 0:4095, of images of more than 8 bits; by default those of the network, or else "
        "0:65535 for 16 bits, 0:1 for floats.",
    ),
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Read JPEGs that were cut off, black where they end.")
]


@dataclass(frozen=True)
class Pixels:
    """How pixels are read where files do not say it themselves: the same for all images of a data set."""

    channels: int = 3
    """1 for greyscale, 3 for RGB, to which images are converted; of any other number an image must have as many."""
    range: tuple[float, float] | None = None
    """The values that are black and white in images of more than 8 bits; None for those of the format."""
    truncated: bool = False
    """Read JPEGs that were cut off, with black in place of what is missing; otherwise they are unreadable."""

    def __str__(self) -> str:
        channels = "greyscale or RGB" if self.channels in (1, 3) else f"{self.channels} channels"
        ends = "as the formats have it" if self.range is None else "{:g} and {:g}".format(*self.range)
        cut = "read, black where they end" if self.truncated else "not read"
        return f"{channels}; black and white of more than 8 bits: {ends}; JPEGs that were cut off: {cut}"


USUAL = Pixels()
