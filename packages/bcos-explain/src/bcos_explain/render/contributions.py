"""The picture of a map, signed or not, and the scale beside it: its colours, and numbers at round values."""

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
UNSIGNED_COLOUR_MAP = "YlOrBr"
"""That of maps without a sign, such as Grad-CAM's: from pale to dark."""
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
    low: float | None = None,
    percentile: float = PERCENTILE,
    cmap: str | None = None,
) -> Picture:
    """Colour a contribution map: red for the class, blue against it, white for zero; or a map without a sign.

    Args:
        map: (H, W), signed, as a tensor or an array.
        limit: contribution at the ends of the colours; those beyond are clipped. None for the map's own
            percentile.
        low: of a map without a sign, the value at the start of its colours, which go from pale to dark. None for a
            signed map.
        percentile: percentile of the absolute contributions.
        cmap: name of a matplotlib colour map; None for :data:`COLOUR_MAP`, or :data:`UNSIGNED_COLOUR_MAP`.

    Returns:
        (H, W, 3), RGB in [0, 1].

    Raises:
        BcosError: another shape, non-finite values, a limit that is not positive or not above `low`, or an unknown
            colour map.
    """
    values, limit = _with_limit(map, limit, percentile)
    start = -limit if low is None else low
    if not start < limit:
        raise BcosError(f"the colours of a map must end above their start, {low:g}, got {limit:g}")
    chosen = cmap or (COLOUR_MAP if low is None else UNSIGNED_COLOUR_MAP)
    rgba = _colour_map(chosen)((values.clip(start, limit) - start) / (limit - start))
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
    """A scale from ``-limit`` to ``limit``, or from `low` to ``limit``."""

    limit: float
    label: str
    """Units."""
    clipped: bool = False
    """Whether values lie beyond; then the ends are pointed."""
    low: float | None = None
    """Start of the scale of a map without a sign; None for a signed one."""

    def marks(self, count: int = 2) -> list[tuple[float, str]]:
        """Return places from 0 to 1 and text of round values; of a signed map, about `count` on each side of 0."""
        low, limit = self.low, self.limit
        if low is None:
            placed = [((v / limit + 1) / 2, v) for v in ticks(limit, count)]
        else:
            placed = [((v - low) / (limit - low), v) for v in _round_values(low, limit, 2 * count)]
        return [(place, f"{value:.4g}".replace("-", "−")) for place, value in placed]


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


def _round_values(low: float, high: float, count: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(nbins=count).tick_values(low, high) if low <= v <= high] or [low, high]


def bar_picture(width: int, height: int, bar: ColorBar) -> NDArray[np.uint8]:
    """Return the colours (H, W, 4) from left to right; ends beyond which values lie are pointed."""
    start, low = (-1, None) if bar.low is None else (0, 0.0)
    rgb = contribution_rgb(np.linspace(start, 1, width)[None], limit=1.0, low=low)
    picture = np.concatenate([np.broadcast_to(rgb, (height, width, 3)), np.ones((height, width, 1))], axis=-1)
    if bar.clipped:
        rows = np.abs(np.arange(height) - (height - 1) / 2)  # distance from the middle
        columns = np.arange(width)
        from_end = width - 1 - columns if bar.low is not None else np.minimum(columns, width - 1 - columns)
        picture[..., 3] = from_end[None] >= rows[:, None] - 0.5
    pixels: NDArray[np.uint8] = np.rint(picture * 255).astype(np.uint8)
    return pixels
