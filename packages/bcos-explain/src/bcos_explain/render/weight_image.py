"""The colour picture of a dynamic linear map."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bcos_core import BcosError
from bcos_explain.render.arrays import Array, Picture, as_picture, as_tensor, to_bytes, to_floats
from bcos_explain.render.scale import PERCENTILE, percentile_or_maximum

TINY = 1e-12
"""Added to denominators that may be zero."""
SMOOTH = 15
"""Side of the mean filter over the opacity of images of 224 pixels (Böhle et al., TPAMI 2024)."""


def explanation_image(
    x: Array,
    weight: Array,
    *,
    smooth: int | None = SMOOTH,
    percentile: float = PERCENTILE,
    alpha_scale: float | None = None,
) -> Picture:
    r"""Return a picture of a dynamic linear map W: the colours that it looks for, opaque where it is strong.

    Colour: with ``w = max(0, W / max_c |W_c|)`` at each pixel, the colour of channel c is
    ``w_c / (w_c + w_{1-c})``, where ``1-c`` is its inverse channel. Opacity: the norm ``‖W‖`` over channels,
    zero where the contribution ``W·x`` of the pixel is negative, smoothed by a mean filter (zeros outside
    count) and divided by its own percentile.

    Args:
        x: (C, H, W), the encoded input, as a tensor or an array.
        weight: (C, H, W), W for one output. With 6 channels ``[r, g, b, 1-r, 1-g, 1-b]`` the picture has
            their colours, with 2 channels ``[v, 1-v]`` it is grey. Other encodings have no inverse that tells
            black from nothing, so sign is shown instead: grey is zero, brighter a positive weight, darker a
            negative one, in RGB for 3 channels and in grey (of the mean over channels) for any other number.
        smooth: size of the mean filter, odd; 1 for none, None for one in proportion to the image, 15 at 224 pixels.
            Clipped to the largest odd size that fits into the image.
        percentile: percentile of the smoothed norm, at which the picture is opaque.
        alpha_scale: smoothed norm at which the picture is opaque, instead of the percentile, so that pictures
            can be compared with each other; see :func:`common_alpha_scale`.

    Returns:
        (H, W, 4), RGBA in [0, 1], not premultiplied. Fully transparent if nothing contributes positively.

    Raises:
        BcosError: shapes that differ, non-finite values, an even `smooth`, a percentile outside [0, 100], or
            a scale that is not positive.

    Source: Böhle et al., TPAMI 2024, section 5.3, figure 7; the reference implementation's
        ``gradient_to_image``.
    """
    picture = WeightPicture.of(x, weight, smooth=smooth)
    if alpha_scale is None:
        alpha_scale = percentile_or_maximum(picture.strength, percentile) or None
    return picture.rgba(alpha_scale)


@dataclass(frozen=True)
class WeightPicture:
    """What must be kept of W to draw it on a scale that is not known yet."""

    colours: NDArray[np.float64] | NDArray[np.uint8]
    """(H, W, 3), floats in [0, 1] or 8-bit."""
    strength: NDArray[np.floating]
    """(H, W), the smoothed norm."""

    @classmethod
    def of(cls, x: Array, weight: Array, *, smooth: int | None = None) -> "WeightPicture":
        """Return colours and smoothed norm of W.

        Args:
            x: (C, H, W), the encoded input; so is `weight`, W for one output.
            smooth: as for :func:`explanation_image`.

        Raises:
            BcosError: as :func:`explanation_image`.
        """
        inputs, w = _checked(x, weight)
        return cls(as_picture(_colours(w)), _strength(inputs, w, smooth).numpy())

    @property
    def own_scale(self) -> float | None:
        """Norm at which a picture on a scale of its own is opaque; None where nothing contributes positively."""
        return percentile_or_maximum(self.strength) or None

    def compact(self) -> "WeightPicture":
        """Return the same in 8 and 32 bits, a quarter of the size."""
        return WeightPicture(to_bytes(self.colours), self.strength.astype(np.float32))

    def rgba(self, alpha_scale: float | None = None) -> Picture:
        """Return a picture (H, W, 4), opaque where the norm reaches `alpha_scale`.

        None, the scale of maps without positive contributions, leaves everything transparent.

        Raises:
            BcosError: a scale that is not positive.
        """
        if alpha_scale is not None and not alpha_scale > 0:
            raise BcosError(f"alpha_scale must be positive, got {alpha_scale}; use None for the picture's own")
        alpha = np.zeros_like(self.strength) if alpha_scale is None else (self.strength / alpha_scale).clip(0, 1)
        return np.concatenate([to_floats(self.colours), alpha[..., None]], axis=-1)


def smoothing(size: int) -> int:
    """Return the odd side of the mean filter for images of `size` pixels, in proportion to 15 at 224."""
    return 2 * round(SMOOTH * size / 224 / 2 - 0.5) + 1


def common_alpha_scale(
    x: Array, weight: Array, *, smooth: int | None = SMOOTH, percentile: float = PERCENTILE
) -> float | None:
    """Return the `alpha_scale` that suits a whole batch: the percentile over all of its pixels.

    Args:
        x: (N, C, H, W).
        weight: (N, C, H, W).
        smooth: as for :func:`explanation_image`; so is `percentile`.

    Returns:
        The scale, or None if nothing in the batch contributes positively (then every picture is transparent
        anyway).

    Raises:
        BcosError: as :func:`explanation_image`.
    """
    inputs, weights = as_tensor(x, "x", 4), as_tensor(weight, "weight", 4)
    if len(inputs) != len(weights):
        raise BcosError(f"x and weight must have the same length, got {len(inputs)} and {len(weights)}")
    strengths = [_strength(*_checked(i, w), smooth) for i, w in zip(inputs, weights, strict=True)]
    return percentile_or_maximum(torch.stack(strengths).numpy(), percentile) or None


def _checked(x: Array, weight: Array) -> tuple[Tensor, Tensor]:
    inputs, w = as_tensor(x, "x", 3), as_tensor(weight, "weight", 3)
    if inputs.shape != w.shape:
        raise BcosError(
            f"x and weight must have the same shape, got {tuple(inputs.shape)} and {tuple(w.shape)}; "
            "give the encoded input that the weight belongs to (Explanation.input)"
        )
    return inputs, w


def _colours(weight: Tensor) -> Tensor:
    """Return RGB (3, H, W) in [0, 1] of W (C, H, W)."""
    channels = len(weight)
    w = weight / weight.abs().amax(0, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    if channels in (2, 6):
        positive = w.clamp_min(0)
        direct, inverse = positive.chunk(2)
        colours = direct / (direct + inverse + TINY)
    else:
        colours = (1 + (w if channels == 3 else w.mean(0, keepdim=True))) / 2
    return colours.expand(3, -1, -1)


def _strength(x: Tensor, weight: Tensor, smooth: int | None) -> Tensor:
    """Return the smoothed norm of W where it contributes positively, (H, W)."""
    if smooth is None:
        smooth = smoothing(min(weight.shape[1:]))
    if smooth < 1 or smooth % 2 == 0:
        raise BcosError(f"smooth must be odd and at least 1, got {smooth}; use 1 for no smoothing")
    norm = torch.linalg.vector_norm(weight, dim=0)
    norm = torch.where((x * weight).sum(0) < 0, 0.0, norm)
    shortest = min(norm.shape)
    size = min(smooth, shortest if shortest % 2 else shortest - 1)
    return F.avg_pool2d(norm[None], size, stride=1, padding=size // 2)[0] if size > 1 else norm
