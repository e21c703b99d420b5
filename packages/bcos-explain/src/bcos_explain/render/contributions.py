"""The signed picture of a contribution map, and the scale beside it: its colours, and numbers at round values."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcos_core import BcosError
from bcos_explain.render.arrays import Array, Picture, as_tensor
from bcos_explain.render.scale import PERCENTILE, percentile_or_maximum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

COLOUR_MAP = "bwr"
"""Matplotlib's name of the colour map of contributions: red for the class, blue against it, white for zero."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Distances between numbers of a scale, times a power of ten."""


def symmetric_limit(contributions: Array, percentile: float = PERCENTILE) -> float:
    """Return the end of a symmetric colour scale: the percentile of the absolute contributions, of any shape.

    Where that is 0 (few pixels contribute), their maximum; 1 for a map of zeros.
    """
    flat = as_tensor(contributions.reshape(1, -1), "contributions", 2).numpy()
    return percentile_or_maximum(np.abs(flat), percentile) or 1.0


def contribution_rgb(
    map: Array,
    *,
    limit: float | None = None,
    percentile: float = PERCENTILE,
    cmap: str = COLOUR_MAP,
) -> Picture:
    """Colour a contribution map: red for the class, blue against it, white for zero.

    Args:
        map: (H, W), signed, as a tensor or an array.
        limit: contribution at the ends of the colours; those beyond are clipped. None for the map's own
            percentile.
        percentile: percentile of the absolute contributions.
        cmap: name of a matplotlib colour map.

    Returns:
        (H, W, 3), RGB in [0, 1].

    Raises:
        BcosError: another shape, non-finite values, a limit that is not positive, or an unknown colour map.
    """
    values, limit = _with_limit(map, limit, percentile)
    rgba = _colour_map(cmap)((values.clip(-limit, limit) / limit + 1) / 2)
    return np.ascontiguousarray(rgba[..., :3], dtype=np.float64)


def plot_contribution_map(
    map: Array,
    ax: "Axes | None" = None,
    *,
    limit: float | None = None,
    percentile: float = PERCENTILE,
    cmap: str = COLOUR_MAP,
    colorbar: bool = False,
    label: str = "contribution to the logit",
) -> "tuple[Axes, AxesImage]":
    """Draw a contribution map with matplotlib, with an optional scale in units of the logit.

    Args:
        map: (H, W), signed; it and `limit`, `percentile` and `cmap` as for :func:`contribution_rgb`.
        ax: where to draw. None for a new figure of pyplot's, its current one from then on.
        colorbar: add the scale; its ends are pointed where values lie beyond.
        label: label of the scale.

    Returns:
        The axes and the image.

    Raises:
        BcosError: as :func:`contribution_rgb`.
    """
    from matplotlib import pyplot as plt

    values, limit = _with_limit(map, limit, percentile)
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    image = ax.imshow(
        values.clip(-limit, limit), cmap=_colour_map(cmap), vmin=-limit, vmax=limit, interpolation="nearest"
    )
    ax.set(xticks=[], yticks=[])
    if colorbar:
        extend = "both" if np.abs(values).max() > limit else "neither"
        ax.figure.colorbar(image, ax=ax, label=label, extend=extend)
    return ax, image


def _with_limit(map: Array, limit: float | None, percentile: float) -> tuple[NDArray[np.float64], float]:
    values = as_tensor(map, "a contribution map", 2).numpy()
    if limit is None:
        limit = symmetric_limit(values, percentile)
    if not 0 < limit < float("inf"):
        raise BcosError(f"limit must be positive, got {limit}; use None for the map's own percentile")
    return values, limit


def _colour_map(name: str):  # type: ignore[no-untyped-def] # reason: matplotlib is imported on use
    import matplotlib

    try:
        return matplotlib.colormaps[name]
    except KeyError:
        raise BcosError(f"matplotlib has no colour map {name!r}; {COLOUR_MAP!r} is the default") from None


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
