"""Pixel deletion and insertion: whether the output follows the pixels that an explanation calls important."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.metrics.batches import Batch, Encode, Progress, each_map
from bcos_explain.metrics.pixel_removal import Baseline, Output, replacement, target_output
from bcos_explain.metrics.result import MetricResult

First = Literal["most", "least"]


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
    """Area under the output over that for the whole image, at each step; NaN where the latter is not positive."""
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
        whole = target_output(model, batch.x, batch.target, output)
        values = []
        for fraction in fractions.tolist():
            gone = (rank < round(fraction * rank[0].numel()))[:, None]  # (N, 1, H, W)
            x = torch.where(gone ^ insert, other, batch.x)
            values.append(target_output(model, x, batch.target, output))
        parts.append((torch.stack(values, 1) / torch.where(whole > 0, whole, torch.nan)[:, None]).cpu())
    curves = torch.cat(parts)
    areas = torch.trapezoid(curves, fractions, dim=1) / until
    return MetricResult(scores=areas, higher_is_better=insert == (first == "most"), curves=curves, curve_x=fractions)


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

    ``score = ∫_0^until p(q) dq / (until · p(0))`` by the trapezoidal rule, where p(q) is the output when the
    share q of the pixels is gone. A pixel goes with all its channels.

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
        Areas and curves; the lower the better, with first="least" the higher. Undefined where the output for
        the whole image is not positive.

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

    ``score = ∫_0^until p(q) dq / (until · p(whole image))`` by the trapezoidal rule, where p(q) is the output
    when the share q of the pixels is there.

    Args:
        model, explainer, images, target, encode, batch_size, progress, steps, output: as of
            :func:`pixel_deletion`.
        until: share of the pixels that is there in the end.
        baseline: what the pixels are put into; a blurred image has no edges that look like objects.

    Returns:
        Areas and curves, the higher the better. Undefined where the output for the whole image is not positive.

    Source: Petsiuk et al., *RISE*, BMVC 2018, section 4.1.
    """
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    return _area(model, encode, maps, steps, until, "most", baseline, output, insert=True)
