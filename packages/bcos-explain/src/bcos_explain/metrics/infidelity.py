"""Infidelity: how far attributions are from what the removal of squares costs."""

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.metrics.batches import Encode, Progress, each_map
from bcos_explain.metrics.pixel_removal import Baseline, Output, removal_effects, replacement
from bcos_explain.metrics.result import MetricResult


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
