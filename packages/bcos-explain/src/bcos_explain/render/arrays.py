"""Taking tensors and arrays alike."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcos_core import BcosError

Picture = NDArray[np.float64]
Array = Tensor | NDArray[Any]


def as_tensor(value: Array, what: str, ndim: int) -> Tensor:
    """`value` as a float64 tensor on the CPU, detached.

    Raises:
        BcosError: another rank, an empty or a non-finite one.
    """
    tensor = torch.as_tensor(value).detach().to("cpu", torch.float64)
    shape = tuple(tensor.shape)
    if tensor.ndim != ndim or tensor.numel() == 0:
        needed = {2: "(H, W)", 3: "(C, H, W)", 4: "(N, C, H, W)"}[ndim]
        raise BcosError(f"{what} must have shape {needed} and not be empty, got {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise BcosError(f"{what} holds {int((~torch.isfinite(tensor)).sum())} non-finite values (NaN or infinity)")
    return tensor


def as_picture(tensor: Tensor) -> Picture:
    """(C, H, W) as an array (H, W, C) of its own."""
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())
