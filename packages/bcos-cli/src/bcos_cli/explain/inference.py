"""Networks for inference: folded, where that gives the same."""

import torch
from torch import Tensor, nn

from bcos_core import BcosLinear, folded
from bcos_core.conv import BcosConv
from bcos_core.errors import BcosError
from bcos_models import TrainedModel


def blank_input(trained: TrainedModel, device: torch.device) -> Tensor:
    """Return an input of a network for a black image, (1, C, H, W), in the precision of its weights."""
    dtype = next((p.dtype for p in trained.model.parameters() if p.dtype == torch.float64), torch.float32)
    shape = (1, trained.input.channels, trained.input.size, trained.input.size)
    return trained.encode(torch.zeros(shape, device=device)).to(dtype)


def for_inference(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of a B-cos network that computes the same faster; the network itself where there is none.

    Args:
        model: in eval mode.
        x: of the shape and precision of its inputs.
    """
    if not any(isinstance(module, BcosConv | BcosLinear) for module in model.modules()):
        return model
    image = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)  # not the run's random numbers
    try:
        return folded(model, image)
    except BcosError:
        return model
