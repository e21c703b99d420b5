"""Faithfulness: sensitivity-n and infidelity, whether attributions predict what the removal of pixels costs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.metrics.batches import Encode, Progress, each_map
from bcos_explain.metrics.pixel_removal import Baseline, Output, pixel_subsets, removal_effects, replacement
from bcos_explain.metrics.result import MetricResult
from bcos_explain.metrics.similarity import pearson


def sensitivity_n(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    fractions: Sequence[float] = (0.01, 0.05, 0.2, 0.5, 0.8),
    subsets: int = 50,
    baseline: Baseline = "zero",
    output: Output = "logit",
    seed: int = 0,
) -> MetricResult:
    """Correlation of the attribution of random pixels with what their removal costs.

    ``score = mean_n corr_S(Σ_{p in S} a_p, f(x) - f(x without S))`` over random subsets S of n pixels. Subsets
    are the same for all images, so a score does not depend on the other images.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            `encode` must treat each pixel by itself.
        fractions: the n, as shares of all pixels (at least one pixel); each costs `subsets` forward passes.
        subsets: random subsets of each size.
        baseline: what is put in place of a pixel, see :func:`bcos_explain.metrics.pixel_removal.replacement`.
        output: f: the target's logit, or its probability.
        seed: of the subsets.

    Returns:
        Correlations, 1 is best, 0 by chance, with one curve over `fractions` an image. Undefined where
        attributions or outputs are constant for every n.

    Source: Ancona et al., *Towards Better Understanding of Gradient-Based Attribution Methods*, ICLR 2018,
        section 4.
    """
    check_count("subsets", subsets, least=3)
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise BcosError(f"fractions must be shares inside (0, 1), at least one, got {tuple(fractions)}")
    height, width = images.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    sizes = [max(1, round(fraction * height * width)) for fraction in fractions]
    removed = [pixel_subsets(height, width, size, subsets, generator) for size in sizes]  # each (S, H, W)
    curves = []
    for batch, maps in each_map(model, explainer, images, target, encode, batch_size, progress):
        other = replacement(batch, encode, baseline)
        columns = [pearson(*removal_effects(model, batch, maps, other, masks, output)) for masks in removed]
        curves.append(torch.stack(columns, 1).cpu())
    joined = torch.cat(curves)
    return MetricResult(
        scores=joined.nanmean(1),
        higher_is_better=True,
        chance=0.0,
        curves=joined,
        curve_x=torch.tensor(list(fractions), dtype=torch.float64),
    )


def infidelity(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    squares: int = 50,
    side: float = 0.25,
    normalize: bool = True,
    baseline: Baseline = "zero",
    output: Output = "logit",
    seed: int = 0,
) -> MetricResult:
    """Mean squared distance of the attribution of a random square from what its removal costs.

    ``score = min_β mean_S (β Σ_{p in S} a_p - (f(x) - f(x without S)))²``, with β = 1 without `normalize`.
    Squares are the same for all images, so a score does not depend on the other images.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            `encode` must treat each pixel by itself.
        squares: random squares, each of which lies inside of the image.
        side: of a square, as a part of the image's shorter side.
        normalize: scale each explanation by the β that fits best, as the paper does to compare methods whose
            attributions have different units.
        baseline: what is put in place of the square, see :func:`bcos_explain.metrics.pixel_removal.replacement`.
        output: f: the target's logit, or its probability.
        seed: of the squares.

    Returns:
        Squared distances in units of f², lower is better.

    Source: Yeh et al., *On the (In)fidelity and Sensitivity of Explanations*, NeurIPS 2019, definition 2.1 and
        the square removal of section 2.3.
    """
    check_count("squares", squares)
    if not 0 < side <= 1:
        raise BcosError(f"side must be inside (0, 1], a part of the image's side, got {side}")
    masks = square_masks(images.shape[-2], images.shape[-1], side, squares, torch.Generator().manual_seed(seed))
    scores = []
    for batch, maps in each_map(model, explainer, images, target, encode, batch_size, progress):
        other = replacement(batch, encode, baseline)
        attributed, cost = removal_effects(model, batch, maps, other, masks, output)
        if normalize:
            power = attributed.square().sum(1, keepdim=True)
            attributed = attributed * (attributed * cost).sum(1, keepdim=True) / torch.where(power > 0, power, 1)
        scores.append((attributed - cost).square().mean(1).cpu())
    return MetricResult(scores=torch.cat(scores), higher_is_better=False)


def square_masks(height: int, width: int, side: float, count: int, generator: torch.Generator) -> Tensor:
    """(count, H, W), bool: random squares inside of the image."""
    pixels = max(1, round(side * min(height, width)))
    top = torch.randint(height - pixels + 1, (count, 1), generator=generator)
    left = torch.randint(width - pixels + 1, (count, 1), generator=generator)
    row, column = torch.arange(height), torch.arange(width)
    rows, columns = (row >= top) & (row < top + pixels), (column >= left) & (column < left + pixels)
    return rows[:, :, None] & columns[:, None, :]
