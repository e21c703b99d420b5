"""Tensors and arrays as pictures, in floats and in 8 bits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcos_core import BcosError

Picture = NDArray[np.float64]
Array = Tensor | NDArray[Any]
ROUNDING = 1e-3
"""Tolerance of pictures for values outside [0, 1]."""


def as_tensor(value: Array, what: str, ndim: int) -> Tensor:
    """Return `value` as a float64 tensor on the CPU, detached.

    Raises:
        BcosError: another rank, or an empty or non-finite value.
    """
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)  # tensors have no negative strides, as flipped arrays have
    tensor = torch.as_tensor(value).detach().to("cpu", torch.float64)
    shape = tuple(tensor.shape)
    if tensor.ndim != ndim or tensor.numel() == 0:
        needed = {2: "(H, W)", 3: "(C, H, W)", 4: "(N, C, H, W)"}[ndim]
        raise BcosError(f"{what} must have shape {needed} and not be empty, got {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise BcosError(f"{what} holds {int((~torch.isfinite(tensor)).sum())} non-finite values (NaN or infinity)")
    return tensor


def as_picture(tensor: Tensor) -> Picture:
    """Return (C, H, W) as a new array (H, W, C)."""
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())


def to_bytes(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels in 8 bits; 8-bit pixels are unchanged.

    Raises:
        BcosError: another shape than (H, W), (H, W, 3) or (H, W, 4), or values outside [0, 1].
    """
    values = np.asarray(picture)
    if values.ndim not in (2, 3) or values.size == 0 or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise BcosError(f"a picture must be (H, W), (H, W, 3) or (H, W, 4), got shape {values.shape}")
    if values.dtype == np.uint8:
        return values.view(np.uint8)
    if not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):  # also refuses NaN
        raise BcosError(
            f"a picture must have values in [0, 1], got {values.min():.3g} to {values.max():.3g}; "
            "colour contribution maps with contribution_rgb, make others with input_image or explanation_image"
        )
    pixels: NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def to_floats(picture: NDArray[Any]) -> NDArray[Any]:
    """Return pixels in [0, 1], of a picture in 8 bits or in floats."""
    return picture / 255 if picture.dtype == np.uint8 else picture
