"""The scale beside a contribution map: its colours, and numbers at round values."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_explain.render.contributions import contribution_rgb

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class ColorBar:
    """A scale from ``-limit`` to ``limit``."""

    limit: float
    label: str
    """Units."""
    clipped: bool = False
    """Whether values lie beyond; then the ends are pointed."""


def ticks(limit: float, count: int = 2) -> list[float]:
    """Return round values from -limit to limit, with 0, about `count` on each side and at least one.

    Raises:
        BcosError: a limit that is not positive and finite.

    >>> ticks(0.013)
    [-0.01, -0.005, 0.0, 0.005, 0.01]
    """
    if not 0 < limit < math.inf:
        raise BcosError(f"limit must be positive, got {limit}")
    power = 10.0 ** math.floor(math.log10(limit / count))
    fitting = [s * power for s in _STEPS if s * power <= limit * (1 + 1e-9)]
    step = min(fitting, key=lambda s: abs(math.floor(limit / s * (1 + 1e-9)) - count))
    last = math.floor(limit / step * (1 + 1e-9))
    return [float(f"{k * step:.12g}") for k in range(-last, last + 1)]


def tick_text(value: float) -> str:
    """Return a tick as text, with a minus sign as wide as a plus."""
    return f"{value:.4g}".replace("-", "−")


def bar_picture(width: int, height: int, *, clipped: bool) -> NDArray[np.uint8]:
    """Return the colours (H, W, 4) from left to right; ends are pointed where values are clipped."""
    rgb = contribution_rgb(np.linspace(-1, 1, width)[None], limit=1.0)
    picture = np.concatenate([np.broadcast_to(rgb, (height, width, 3)), np.ones((height, width, 1))], axis=-1)
    if clipped:
        rows = np.abs(np.arange(height) - (height - 1) / 2)  # distance from the middle
        columns = np.arange(width)
        from_end = np.minimum(columns, width - 1 - columns)
        picture[..., 3] = from_end[None] >= rows[:, None] - 0.5
    pixels: NDArray[np.uint8] = np.rint(picture * 255).astype(np.uint8)
    return pixels
