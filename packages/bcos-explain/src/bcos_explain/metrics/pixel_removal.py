"""Removal of pixels: deletion and insertion, and what all metrics that remove pixels share."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.metrics.batches import Batch, Encode, Progress, each_map
from bcos_explain.metrics.result import MetricResult

Baseline = Literal["zero", "mean", "blur"]
Output = Literal["softmax", "sigmoid", "logit"]
First = Literal["most", "least"]

BLUR = 1 / 16
"""Standard deviation of the blur as a part of the image's shorter side."""
_AT_ONCE = 64
"""Images that pass the network together, unless a batch has more."""


def pixel_deletion(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    steps: int = 20,
    until: float = 1.0,
    first: First = "most",
    baseline: Baseline = "zero",
    output: Output = "softmax",
) -> MetricResult:
    """Area under the curve of the target's output while pixels are removed in order of their attribution.

    ``score = ∫_0^until p(q) dq / until`` by the trapezoidal rule, where p(q) is the output when the share q of
    the pixels is gone. A pixel goes with all its channels.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            `encode` must treat each pixel by itself. Among equal attributions the pixels go row by row.
        steps: number of steps, of equal size.
        until: share of the pixels that is removed in the end.
        first: whether the most or the least important pixels go first. Böhle et al. remove the least important
            ones, up to a quarter.
        baseline: what is put in their place, see :func:`bcos_explain.metrics.pixel_removal.replacement`.
        output: the target's probability (``"softmax"``, or ``"sigmoid"`` where classes are independent), or
            its ``"logit"``.

    Returns:
        Areas, in units of the output, and curves; the lower the better, with first="least" the higher. Undefined
        for maps that are not finite.

    Source: Petsiuk et al., *RISE*, BMVC 2018, section 4.1; Samek et al., TNNLS 2017; with first="least"
        Böhle et al., CVPR 2022, section 4.
    """
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    return _area(model, encode, maps, steps, until, first, baseline, output, insert=False)


def pixel_insertion(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    steps: int = 20,
    until: float = 1.0,
    baseline: Baseline = "blur",
    output: Output = "softmax",
) -> MetricResult:
    """Area under the curve of the target's output while the most important pixels are put into a baseline.

    ``score = ∫_0^until p(q) dq / until`` by the trapezoidal rule, where p(q) is the output when the share q of
    the pixels is there.

    Args:
        model, explainer, images, target, encode, batch_size, progress, steps, output: as of
            :func:`pixel_deletion`.
        until: share of the pixels that is there in the end.
        baseline: what the pixels are put into; a blurred image has no edges that look like objects.

    Returns:
        Areas, in units of the output, and curves; the higher the better. Undefined for maps that are not finite.

    Source: Petsiuk et al., *RISE*, BMVC 2018, section 4.1.
    """
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    return _area(model, encode, maps, steps, until, "most", baseline, output, insert=True)


def _area(
    model: nn.Module,
    encode: Encode | None,
    maps: Iterator[tuple[Batch, Tensor]],
    steps: int,
    until: float,
    first: First,
    baseline: Baseline,
    output: Output,
    *,
    insert: bool,
) -> MetricResult:
    """Area under the output."""
    check_count("steps", steps)
    if not 0 < until <= 1:
        raise BcosError(f"until must be inside (0, 1], the share of pixels to go through, got {until}")
    if first not in ("most", "least"):
        raise BcosError(f"first must be 'most' or 'least', got {first!r}")
    fractions = torch.linspace(0, until, steps + 1, dtype=torch.float64)
    parts = []  # each (N, steps + 1)
    for batch, attribution in maps:
        other = replacement(batch, encode, baseline)
        order = attribution.flatten(1).argsort(dim=1, descending=first == "most", stable=True)
        rank = order.argsort(1).view_as(attribution)  # 0 for the pixel that goes first
        values = []
        for fraction in fractions.tolist():
            gone = (rank < round(fraction * rank[0].numel()))[:, None]  # (N, 1, H, W)
            x = torch.where(gone ^ insert, other, batch.x)
            values.append(target_output(model, x, batch.target, output))
        ordered = torch.isfinite(attribution).flatten(1).all(1, keepdim=True)  # NaN has no place in an order
        parts.append(torch.stack(values, 1).where(ordered, torch.nan).cpu())
    curves = torch.cat(parts)
    areas = torch.trapezoid(curves, fractions, dim=1) / until
    return MetricResult(scores=areas, higher_is_better=insert == (first == "most"), curves=curves, curve_x=fractions)


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


def removal_effects(
    model: nn.Module, batch: Batch, maps: Tensor, other: Tensor, masks: Tensor, output: Output
) -> tuple[Tensor, Tensor]:
    """What attributions (N, H, W) say that the removal of pixels costs, and what it costs, both (N, S), float64.

    Masks (S, H, W) are the sets of pixels, and `other` what replaces them, see :func:`replacement`.
    """
    masks = masks.to(maps.device)
    attributed = torch.einsum("nhw,shw->ns", maps.double(), masks.double())
    n = len(batch.x)
    left = []
    for part in masks.split(max(1, _AT_ONCE // n)):
        x = torch.where(part[:, None, None], other, batch.x).flatten(0, 1)  # sets × images
        left.append(target_output(model, x, batch.target.repeat(len(part)), output).unflatten(0, (-1, n)))
    return attributed, (target_output(model, batch.x, batch.target, output) - torch.cat(left)).t()


def pixel_subsets(height: int, width: int, size: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, H, W), bool: random subsets of `size` pixels each."""
    order = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(count)])
    return (order.argsort(1) < size).view(count, height, width)
