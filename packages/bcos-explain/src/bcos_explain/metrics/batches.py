"""From stored images to what a network takes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def as_input(images: Tensor, model: nn.Module, encode: Callable[[Tensor], Tensor] | None) -> Tensor:
    """(N, C, H, W) on the device and in the precision of the model's parameters, encoded.

    8-bit integers become floats in [0, 1].
    """
    parameter = next(model.parameters(), None)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    if parameter is not None:
        images = images.to(parameter.device, parameter.dtype if parameter.is_floating_point() else None)
    return images if encode is None else encode(images)
