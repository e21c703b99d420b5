"""Widening of half precisions."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """`x` in float32 if it is of a half precision, so that sums and shifts keep their digits; else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
