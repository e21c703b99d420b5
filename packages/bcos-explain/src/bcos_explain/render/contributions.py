"""The signed picture of a contribution map."""

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
    rgba = _colour_map(cmap)((values / limit + 1) / 2)
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
        map: (H, W), signed; so are `limit`, `percentile` and `cmap` as for :func:`contribution_rgb`.
        ax: where to draw. None for a new figure of its own, ``ax.figure``, which pyplot does not manage.
        limit: contribution at the ends of the colours.
        percentile: percentile of the absolute contributions.
        cmap: name of a matplotlib colour map.
        colorbar: add the scale.
        label: label of the scale.

    Returns:
        The axes and the image.

    Raises:
        BcosError: as :func:`contribution_rgb`.
    """
    from matplotlib.figure import Figure

    values, limit = _with_limit(map, limit, percentile)
    if ax is None:
        ax = Figure(layout="constrained").add_subplot()
    image = ax.imshow(values, cmap=_colour_map(cmap), vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label=label)
    return ax, image


def _with_limit(map: Array, limit: float | None, percentile: float) -> tuple[NDArray[np.float64], float]:
    values = as_tensor(map, "a contribution map", 2).numpy()
    if limit is None:
        limit = symmetric_limit(values, percentile)
    if not 0 < limit < float("inf"):
        raise BcosError(f"limit must be positive, got {limit}; use None for the map's own percentile")
    return values.clip(-limit, limit), limit


def _colour_map(name: str):  # type: ignore[no-untyped-def] # reason: matplotlib is imported on use
    import matplotlib

    try:
        return matplotlib.colormaps[name]
    except KeyError:
        raise BcosError(f"matplotlib has no colour map {name!r}; {COLOUR_MAP!r} is the default") from None
