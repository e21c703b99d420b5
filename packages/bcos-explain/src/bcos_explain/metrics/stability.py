"""Stability of explanations: under noise that is too weak to notice, and under small shifts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.explainers.gradient import image_signs, like_images
from bcos_explain.metrics.batches import Encode, Progress, each_map
from bcos_explain.metrics.result import MetricResult
from bcos_explain.metrics.similarity import Similarity, similarity

_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def max_sensitivity(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> MetricResult:
    """Largest relative change of the map under uniform noise on the image.

    ``score = max_δ ‖a(x + δ) - a(x)‖ / ‖a(x)‖`` with ``|δ| ≤ radius`` in each value of the image before its
    encoding, for the class of the image without noise. The noise is the same for all images, so a score does
    not depend on the other images.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            each image is explained 1 + `samples` times.
        radius: of the noise, in units of the images' values.
        samples: draws of the noise.
        seed: of the noise.

    Returns:
        Relative changes, lower is better; undefined for a map of zeros.

    Source: Yeh et al., *On the (In)fidelity and Sensitivity of Explanations*, NeurIPS 2019, definition 3.1.
    """
    check_count("samples", samples)
    if not radius > 0:
        raise BcosError(f"radius must be above 0, got {radius}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand((samples, *images.shape[1:]), generator=generator, dtype=torch.float64)
    noise = (2 * drawn - 1) * radius
    scores = []
    for batch, still in each_map(model, explainer, images, target, encode, batch_size, progress):
        changes = []
        signs = image_signs(batch.images)  # images may be encoded already
        for drawn in noise.to(batch.images):
            moved = batch.images + like_images(drawn, signs)
            maps = attribute(explainer, model, moved if encode is None else encode(moved), batch.target)
            changes.append(torch.linalg.vector_norm(maps - still, dim=(1, 2)))
        size = torch.linalg.vector_norm(still, dim=(1, 2))
        scores.append((torch.stack(changes).amax(0) / torch.where(size > 0, size, torch.nan)).double().cpu())
    return MetricResult(scores=torch.cat(scores), higher_is_better=False)


def shift_stability(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    pixels: int = 2,
    kind: Similarity = "pearson",
) -> MetricResult:
    """Similarity of the map of an image to the map of the shifted image, shifted back.

    The image moves by 1 to `pixels` pixels down, up, right and left, its border repeated behind it; the maps
    are compared where they overlap, for the class of the image that was not shifted.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            each image is explained 1 + 4·`pixels` times.
        pixels: largest shift.
        kind: of similarity: ``"pearson"`` or ``"spearman"`` correlation, or ``"ssim"``.

    Returns:
        Mean similarity over all shifts, 1 is best, with a curve over the length of the shift. Undefined where
        a map is constant.

    Raises:
        BcosError: a shift of the whole image, or as the explainer.

    Source: the equivariance of Crabbé and van der Schaar, *Evaluating the Robustness of Interpretability Methods
        through Explanation Invariance and Equivariance*, NeurIPS 2023, for shifts.
    """
    check_count("pixels", pixels)
    if pixels >= min(images.shape[-2:]):
        raise BcosError(f"images of {tuple(images.shape[-2:])} cannot be shifted by {pixels} pixels")
    curves = []
    for batch, still in each_map(model, explainer, images, target, encode, batch_size, progress):
        columns = []
        for length in range(1, pixels + 1):
            alike = []
            for dy, dx in ((length * y, length * x) for y, x in _DIRECTIONS):
                moved = shifted(batch.images, dy, dx)
                maps = attribute(explainer, model, moved if encode is None else encode(moved), batch.target)
                alike.append(similarity(overlap(still, -dy, -dx), overlap(maps, dy, dx), kind))
            columns.append(torch.stack(alike, 1).mean(1))
        curves.append(torch.stack(columns, 1).cpu())
    joined = torch.cat(curves)
    lengths = torch.arange(1, pixels + 1, dtype=torch.float64)
    return MetricResult(scores=joined.mean(1), higher_is_better=True, chance=0.0, curves=joined, curve_x=lengths)


def shifted(images: Tensor, dy: int, dx: int) -> Tensor:
    """Move (N, C, H, W) down by dy and right by dx pixels; the border is repeated behind it."""
    padded = F.pad(images, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)), mode="replicate")
    height, width = images.shape[-2:]
    top, left = max(-dy, 0), max(-dx, 0)
    return padded[..., top : top + height, left : left + width]


def overlap(maps: Tensor, dy: int, dx: int) -> Tensor:
    """Part of (N, H, W) that is still inside after it came from a shift down by dy and right by dx pixels."""
    height, width = maps.shape[-2:]
    return maps[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
