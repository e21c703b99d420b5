"""The energy pointing game (EPG): how much of the positive attribution lies on the object."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target
from bcos_explain.metrics.batches import Batch, Encode, Progress, each_map
from bcos_explain.metrics.grid_pointing import positive_part
from bcos_explain.metrics.result import MetricResult


def energy_inside(attribution: Tensor, masks: Tensor, smooth: int = 1) -> Tensor:
    """Share of the positive attribution inside of masks: ``Σ_{p in mask} a⁺_p / Σ_p a⁺_p``.

    Args:
        attribution: (N, H, W), signed.
        masks: (N, H, W), bool.
        smooth: size of the mean filter that the signed attribution passes first; odd.

    Returns:
        (N,), float64; 0 for a map without positive attribution, NaN for an empty mask.

    Raises:
        BcosError: masks of another shape or type, or as :func:`bcos_explain.metrics.grid_pointing.positive_part`.
    """
    if masks.shape != attribution.shape or masks.dtype != torch.bool:
        raise BcosError(
            f"masks must be boolean and of the attribution's shape {tuple(attribution.shape)}, got {masks.dtype} of "
            f"shape {tuple(masks.shape)}"
        )
    positive = positive_part(attribution, smooth)
    total = positive.sum((1, 2))
    inside = torch.where(masks, positive, 0).sum((1, 2))
    share = torch.where(total > 0, inside / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
    return torch.where(masks.flatten(1).any(1), share, torch.nan)


def box_masks(boxes: Sequence[Tensor], height: int, width: int) -> Tensor:
    """(N, H, W), bool: pixels whose centre lies in any of the image's boxes.

    Args:
        boxes: for each image (B, 4) or (4,): left, top, right, bottom, in pixels, from the image's corner.
        height: of the image; so is `width`.

    Raises:
        BcosError: boxes of another shape, or whose right is left of their left.
    """
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    masks = []
    for number, given in enumerate(boxes):
        given = torch.as_tensor(given)
        corners = given.cpu().double()
        corners = corners[None] if corners.ndim == 1 and corners.numel() == 4 else corners
        if corners.ndim != 2 or corners.shape[1] != 4:
            raise BcosError(f"boxes of an image must be (B, 4) or (4,), got shape {tuple(given.shape)} at {number}")
        if bool((corners[:, 2:] < corners[:, :2]).any()):
            raise BcosError(f"boxes must be (left, top, right, bottom), got {corners.tolist()} at {number}")
        left, top, right, bottom = corners.t()[..., None]  # each (B, 1)
        inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
        masks.append((inside_rows[:, :, None] & inside_columns[:, None, :]).any(0))
    return torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)


def energy_pointing_game(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    boxes: Sequence[Tensor],
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    smooth: int = 1,
) -> MetricResult:
    """Share of the positive attribution inside of boxes.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.
        boxes: for each image (B, 4) or (4,): left, top, right, bottom in its pixels. Several boxes are one
            region. See :func:`bcos_explain.metrics.boxes_in_input` for boxes of the image that was
            resized and cropped.
        target: the class that the boxes show: an integer, or (M,); None for the predicted class.
        smooth: size of the mean filter that attributions pass first; odd.

    Returns:
        Shares, higher is better; by chance the share of the image that the boxes cover, which differs from image
        to image. Undefined where the boxes cover no pixel.

    Raises:
        BcosError: boxes that do not fit, or as the explainer.

    Source: Wang et al., *Score-CAM*, CVPR Workshops 2020, section 4.3; with positive attributions as in Böhle
        et al., CVPR 2021, section 4.2.
    """
    if len(boxes) != len(images):
        raise BcosError(f"each image needs its boxes, got {len(images)} images and boxes of {len(boxes)}")
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    return _energy_inside_each(maps, box_masks(boxes, *images.shape[-2:]), smooth)


def energy_pointing_game_masks(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    masks: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    smooth: int = 1,
) -> MetricResult:
    """Share of the positive attribution inside of masks.

    Args:
        model, explainer, images, target, encode, batch_size, progress, smooth: as of
            :func:`energy_pointing_game`.
        masks: (M, H, W), bool.

    Returns:
        Shares, higher is better; undefined for empty masks.

    Raises:
        BcosError: masks that do not fit, or as the explainer.

    Source: as :func:`energy_pointing_game`.
    """
    if masks.shape != (len(images), *images.shape[-2:]):
        raise BcosError(
            f"masks must be {(len(images), *images.shape[-2:])} for images of shape {tuple(images.shape)}, got "
            f"{tuple(masks.shape)}"
        )
    return _energy_inside_each(each_map(model, explainer, images, target, encode, batch_size, progress), masks, smooth)


def _energy_inside_each(maps: Iterator[tuple[Batch, Tensor]], masks: Tensor, smooth: int) -> MetricResult:
    scores = [energy_inside(m, masks[batch.samples].to(m.device), smooth).cpu() for batch, m in maps]
    return MetricResult(scores=torch.cat(scores), higher_is_better=True)
