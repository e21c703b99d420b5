"""How a converted network becomes a B-cos network step by step while it is fine-tuned."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcos_core.errors import BcosError
from bcos_core.functional import check_exponent
from bcos_core.norms.batch import RunningNorm
from bcos_models.convert.rules import CONVERTED, REMOVABLE_BIAS


def set_exponent(model: nn.Module, b: float) -> None:
    """Set the exponent B of every B-cos convolution and linear layer of a model.

    Raises:
        BcosError: B below 1, or a model without such layers.
    """
    check_exponent(b)
    layers = [layer for layer in model.modules() if isinstance(layer, CONVERTED)]
    if not layers:
        raise BcosError("the model has no B-cos layers whose exponent could be set; convert it with bcosify first")
    for layer in layers:
        layer.b = b


def scale_biases(model: nn.Module, factor: float) -> None:
    """Multiply the biases that a converted network ends without by a factor, in place."""
    with torch.no_grad():
        for layer in _with_removable_bias(model):
            layer.bias.mul_(factor)


def remove_biases(model: nn.Module) -> None:
    """Take off the biases that a converted network ends without."""
    for layer in _with_removable_bias(model):
        layer.bias = None


def _with_removable_bias(model: nn.Module) -> list[Any]:
    """Return the layers whose bias :func:`bcosify` would have removed, which it has marked."""
    return [
        layer
        for layer in model.modules()
        if getattr(layer, REMOVABLE_BIAS, False) and getattr(layer, "bias", None) is not None
    ]


def recalibrate_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of batch norms anew, which no longer fit once B or biases have changed.

    Args:
        model: left in the mode it is in; nothing else of it changes.
        batches: inputs of the model, (N, C, H, W), N > 1; statistics are averaged over them.

    Raises:
        BcosError: no batches.
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, RunningNorm | _BatchNorm)]
    norms = [norm for norm in norms if norm.running_var is not None]
    was_training = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    count = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # plain average over batches
            norm.num_batches_tracked.zero_()
        with torch.no_grad():
            for batch in batches:
                model(batch)
                count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in was_training.items():
            module.training = training
    if not count:
        raise BcosError("recalibrate_norms needs at least one batch of inputs, got none")
