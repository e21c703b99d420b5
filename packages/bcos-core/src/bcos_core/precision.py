"""Precision of what is computed: half precisions widened, and float32 that is float32."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core.process_setting import ProcessSetting


def is_half(x: Tensor) -> bool:
    """Whether `x` is of a half precision."""
    return is_half_type(x.dtype)


def is_half_type(dtype: torch.dtype) -> bool:
    """Whether a type is a half precision."""
    return dtype in (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """`x` in float32 if it is of a half precision, so that sums and shifts keep their digits; else as it is."""
    return x.float() if is_half(x) else x


def other_precision(model: nn.Module, x: Tensor) -> str | None:
    """What to do about an input in another precision than the model's parameters; None where they are alike."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None or parameter.dtype == x.dtype:
        return None
    return f"the input is {x.dtype}, the model's parameters are {parameter.dtype}; give it x.to({parameter.dtype})"


def _full_float32(undo: ExitStack) -> None:
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):  # torch < 2.9
        undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        undo.enter_context(backends.cudnn.flags(enabled=backends.cudnn.enabled, allow_tf32=False))
        torch.set_float32_matmul_precision("highest")
        return
    of_operation: Any
    for of_operation in (
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),  # type: ignore[attr-defined]
    ):
        undo.callback(setattr, of_operation, "fp32_precision", of_operation.fp32_precision)
        of_operation.fp32_precision = "ieee"


full_float32 = ProcessSetting(_full_float32).on
"""Inside the block float32 is not rounded to TF32 or bfloat16 before products, as GPUs do in convolutions by default.

Those keep 10 and 7 of 23 bits, and forward and backward pass do not round alike: contributions would miss the output by
up to 1e-4 of their size.
"""
