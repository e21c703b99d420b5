"""Removal of pixels: what replaces them, and the network's output then."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.metrics.batches import Batch, Encode

Baseline = Literal["zero", "mean", "blur"]
Output = Literal["softmax", "sigmoid", "logit"]

BLUR = 1 / 16
"""Standard deviation of the blur as a part of the image's shorter side."""


def replacement(batch: Batch, encode: Encode | None, baseline: Baseline) -> Tensor:
    """(N, C', H, W), encoded: what a removed pixel is replaced by.

    The encoding treats each pixel by itself, so replacing encoded pixels is replacing pixels.

    Args:
        batch: the images.
        encode: from images to what the network takes.
        baseline: ``"zero"`` for zeros after the encoding (the absence of an image to a network with inverse
            channels, the mean image to one that standardises), ``"mean"`` for the image's own mean colour,
            ``"blur"`` for the image seen through a Gaussian of a sixteenth of its side.

    Raises:
        BcosError: an unknown baseline, or an encoding that changes the size.
    """
    if batch.x.shape[-2:] != batch.images.shape[-2:]:
        raise BcosError(
            f"pixels are removed from images of {tuple(batch.images.shape[-2:])}, but the encoding makes them "
            f"{tuple(batch.x.shape[-2:])}; resize the images first"
        )
    if baseline == "zero":
        return torch.zeros_like(batch.x)
    if baseline == "mean":
        replaced = batch.images.mean((-2, -1), keepdim=True).expand_as(batch.images)
    elif baseline == "blur":
        replaced = blurred(batch.images)
    else:
        raise BcosError(f"baseline must be 'zero', 'mean' or 'blur', got {baseline!r}")
    return replaced if encode is None else encode(replaced)


def blurred(images: Tensor) -> Tensor:
    """Gaussian blur of (N, C, H, W), of three standard deviations to each side, mirrored at the borders."""
    sigma = min(images.shape[-2:]) * BLUR
    radius = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)


@torch.no_grad()
def target_output(model: nn.Module, x: Tensor, target: Tensor, output: Output) -> Tensor:
    """(N,), float64: the target's logit, or its probability among all classes or by itself.

    Raises:
        BcosError: an unknown output.
    """
    logits: Tensor = model(x).double()
    if output == "softmax":
        logits = logits.softmax(1)
    elif output == "sigmoid":
        logits = logits.sigmoid()
    elif output != "logit":
        raise BcosError(f"output must be 'softmax', 'sigmoid' or 'logit', got {output!r}")
    return logits.gather(1, target[:, None])[:, 0]


def pixel_subsets(height: int, width: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, H, W), bool: random subsets of `size` pixels each."""
    order = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(count)])
    return (order.argsort(1) < size).view(count, height, width)
