"""Batches of images, as a network takes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.targets import with_indices
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer, Target, class_indices

Encode = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]
"""Called with the number of samples done and of all samples, after each batch."""


def as_float(images: Tensor, model: nn.Module) -> Tensor:
    """Images on the device and in the precision of the model's parameters.

    8-bit integers become floats in [0, 1].

    Raises:
        BcosError: other integers, whose range nobody knows, or no tensor.
    """
    if not isinstance(images, Tensor):
        raise BcosError(f"metrics need images as a tensor (M, C, H, W), got {type(images).__name__}")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise BcosError(f"images must be floats in [0, 1] or 8-bit integers (torch.uint8), got {images.dtype}")
    parameter = next(model.parameters(), None)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    if parameter is not None:
        images = images.to(parameter.device, parameter.dtype if parameter.is_floating_point() else None)
    return images


def as_input(images: Tensor, model: nn.Module, encode: Encode | None) -> Tensor:
    """(N, C, H, W) as :func:`as_float` makes them, encoded."""
    images = as_float(images, model)
    return images if encode is None else encode(images)


@dataclass(frozen=True)
class Batch:
    """Some of the images, ready to be explained."""

    images: Tensor
    """(N, C, H, W), floats before the encoding."""
    x: Tensor
    """(N, C', H, W), encoded."""
    target: Tensor
    """(N,), the explained classes."""
    samples: slice
    """Which of all images these are."""


def each_batch(
    model: nn.Module,
    images: Tensor,
    target: Target,
    *,
    encode: Encode | None,
    batch_size: int,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """Go through the images in batches.

    Arguments are described in :mod:`bcos_explain.metrics`; `progress` is called when the next batch is asked for.

    Raises:
        BcosError: not a batch of images, a batch size below 1, or a target that does not fit.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0:
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise BcosError(f"metrics need images (M, C, H, W), at least one, got {got}")
    if batch_size < 1:
        raise BcosError(f"batch_size must be at least 1, got {batch_size}")
    target = with_indices(model, target)
    if isinstance(target, Tensor) and target.ndim and target.shape != (len(images),):
        raise BcosError(
            f"metrics explain one class an image: target must be ({len(images)},), got {tuple(target.shape)}"
        )
    for start in range(0, len(images), batch_size):
        samples = slice(start, min(start + batch_size, len(images)))
        part = as_float(images[samples], model)
        x = part if encode is None else encode(part)
        chosen = target[samples] if isinstance(target, Tensor) and target.ndim else target
        with torch.inference_mode(False), torch.no_grad():  # explainers differentiate what is chosen here
            classes = class_indices(model, model(x), chosen).clone()
        yield Batch(part, x, classes, samples)
        if progress is not None:
            progress(samples.stop, len(images))


def each_map(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    target: Target,
    encode: Encode | None,
    batch_size: int,
    progress: Progress | None,
) -> Iterator[tuple[Batch, Tensor]]:
    """Go through the images in batches, each with its maps (N, H, W); arguments and errors as of :func:`each_batch`."""
    for batch in each_batch(model, images, target, encode=encode, batch_size=batch_size, progress=progress):
        yield batch, attribute(explainer, model, batch.x, batch.target)
