"""The grid pointing game (GridPG): whether an explanation of a class points at its image.

Images of different classes are tiled into one grid; each of these classes is explained on the grid, and the
score is the share of the positive attribution that lies inside the cell of that class.

Source: Böhle et al., *Convolutional Dynamic Alignment Networks for Interpretable Classifications*, CVPR 2021,
section 4.2; as used by Böhle et al., TPAMI 2024; named GridPG by Rao et al., CVPR 2022.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.errors import first_line
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer
from bcos_explain.metrics.batches import Encode, Progress, as_input
from bcos_explain.metrics.result import MetricResult, or_default


@dataclass(frozen=True, kw_only=True)
class GridPointingResult(MetricResult):
    """Scores of one explainer: one for each cell of each grid, grid by grid, cells row by row."""

    grids: Tensor
    """(G, n²): indices of the tiled images."""
    n: int
    smooth: int
    requested: int
    """Grids that were requested; fewer were played if the classes ran out of images."""

    def to_dict(self) -> dict[str, object]:
        """Everything but the images' indices, for JSON."""
        described = {"n": self.n, "smooth": self.smooth, "grids": len(self.grids), "requested": self.requested}
        return super().to_dict() | described


def grid_pointing_game(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    labels: Tensor,
    confidences: Tensor,
    *,
    n: int = 2,
    num_grids: int = 250,
    grids: Tensor | None = None,
    smooth: int = 1,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
    encode: Encode | None = None,
    progress: Progress | None = None,
) -> GridPointingResult:
    """Play the grid pointing game on correctly classified images.

    The paper plays 250 grids of 2×2 or 500 of 3×3, of images that are classified correctly with a probability
    above 0.5, with smooth=1 for CIFAR-10 and 15 for ImageNet.

    Args:
        model: in eval mode; must take images n times as large.
        explainer: see :class:`bcos_explain.explainers.Explainer`; channels are summed. All classes of a grid
            are explained in one call, where it takes several targets.
        images: (M, C, H, W), floats, or 8-bit integers that are divided by 255. They may stay on the CPU:
            each batch of grids is moved to the model's device.
        labels: (M,).
        confidences: (M,), of the labelled class.
        n: images in a row and in a column of a grid.
        num_grids: how many grids to draw.
        grids: (G, n²), indices of the images of each grid, row by row, played as they are; None to draw them
            with :func:`sample_grids`. A grid's scores do not depend on the other grids.
        smooth: size of the mean filter that attributions pass first; odd.
        batch_size: grids explained at once.
        generator: draws the grids; None for one with a fixed seed. With the same seed all explainers play the
            same grids.
        encode: applied to the tiled images, such as :class:`bcos_core.AddInverse`; None for encoded images.
        progress: called with the number of grids done and of all grids, after each batch.

    Returns:
        Scores of all cells, higher is better, 1 / n² by chance.

    Raises:
        BcosError: as :func:`sample_grids`, grids of other images, a network that takes no images of the size of a
            grid, or an explainer that returns another shape.
    """
    options = (n, num_grids, grids, smooth, batch_size, generator, encode, progress)

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        try:
            return attribute(explainer, model, x, classes)
        except Exception as reason:  # networks of one size refuse another in many ways
            if isinstance(reason, BcosError) or _takes(model, x):
                raise
            side = f"{x.shape[-2]}×{x.shape[-1]}"
            raise BcosError(
                f"the network does not take grids of {n}×{n} images, {side} ({first_line(reason)}); the game needs one "
                "that takes images of other sizes than its own, as networks of timm do with dynamic_img_size=True"
            ) from reason

    return play_grids(maps, model, images, labels, confidences, *options)


def _takes(model: nn.Module, x: Tensor) -> bool:
    """Whether the network can be run on inputs of this size."""
    try:
        with torch.no_grad():
            model(x[:1])
    except Exception:  # whatever it raises
        return False
    return True


def tile(images: Tensor, n: int) -> Tensor:
    """Tile (..., n², C, H, W) row by row into (..., C, n·H, n·W).

    Tiling commutes with everything that is done to each pixel, such as appending the inverse channels.

    Raises:
        BcosError: another number of images than n².
    """
    if images.ndim < 4 or images.shape[-4] != n * n:
        raise BcosError(f"a grid of {n}×{n} needs (..., {n * n}, C, H, W) images, got shape {tuple(images.shape)}")
    rows = images.unflatten(-4, (n, n))  # (..., row, column, C, H, W)
    grid: Tensor = rows.movedim(-3, -5).transpose(-3, -2).flatten(-2).flatten(-3, -2)
    return grid


def untile(grids: Tensor, n: int) -> Tensor:
    """Cut (..., C, n·H, n·W) into its cells (..., n², C, H, W), row by row; undoes :func:`tile`.

    Raises:
        BcosError: sides that are not multiples of n.
    """
    if grids.ndim < 3 or grids.shape[-2] % n or grids.shape[-1] % n:
        raise BcosError(f"cells of a {n}×{n} grid need sides that are multiples of {n}, got shape {tuple(grids.shape)}")
    cells = grids.unflatten(-1, (n, -1)).unflatten(-3, (n, -1))  # (..., C, row, H, column, W)
    apart: Tensor = cells.movedim((-4, -2), (-5, -4)).flatten(-5, -4)
    return apart


def cell_scores(attribution: Tensor, n: int, smooth: int = 1) -> Tensor:
    """Share of the positive attribution in each cell of an n×n grid.

    ``score_c = Σ_{p in cell c} a⁺_p / Σ_p a⁺_p`` with ``a⁺ = max(0, smoothed attribution)``.

    Args:
        attribution: (N, n·H, n·W), signed.
        n: cells in a row and in a column.
        smooth: see :func:`positive_part`.

    Returns:
        (N, n²), row by row. A map without any positive attribution points nowhere and scores 0 in each cell.

    Raises:
        BcosError: a shape that has no n×n cells, an even `smooth`, or values that are not finite.
    """
    if attribution.ndim != 3 or attribution.shape[1] % n or attribution.shape[2] % n:
        raise BcosError(
            f"attribution must be (N, H, W) with H and W multiples of n={n}, got shape {tuple(attribution.shape)}"
        )
    positive = positive_part(attribution, smooth)
    cells = positive.unflatten(2, (n, -1)).unflatten(1, (n, -1)).sum((2, 4)).flatten(1)  # (N, n²)
    total = cells.sum(1, keepdim=True)
    return torch.where(total > 0, cells / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)


def positive_part(attribution: Tensor, smooth: int = 1) -> Tensor:
    """``max(0, smoothed attribution)`` of (N, H, W), in float64.

    Args:
        attribution: signed.
        smooth: size k of the k×k mean filter that the signed attribution passes first; odd, 1 for none.
            Outside of the map there are zeros, which count in the mean.

    Raises:
        BcosError: an even `smooth`, or values that are not finite.
    """
    if smooth < 1 or smooth % 2 == 0:
        raise BcosError(f"smooth must be odd and at least 1, got {smooth}; use 1 for no smoothing")
    if not bool(torch.isfinite(attribution).all()):
        raise BcosError("the attribution holds non-finite values (NaN or infinity); shares of these are undefined")
    signed = attribution.double()
    if smooth > 1:
        signed = F.avg_pool2d(signed[:, None], smooth, stride=1, padding=smooth // 2)[:, 0]
    return signed.clamp_min(0)


def sample_grids(
    labels: Tensor | Sequence[int],
    confidences: Tensor | Sequence[float],
    n: int,
    num_grids: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose images for the grids: n² distinct classes each, most confident images first, no image twice.

    Each grid draws n² classes among those that have images left, in random order, and takes the most
    confident unused image of each.

    Args:
        labels: (M,), class of each image.
        confidences: (M,), how sure the network is of it; among equals the first image comes first.
        n: images in a row and in a column.
        num_grids: grids to make.
        generator: None for one with a fixed seed.

    Returns:
        (G, n²) indices into `labels`. G is less than `num_grids` if fewer than n² classes have images left.

    Raises:
        BcosError: fewer than n² classes, confidences that do not fit the labels or are NaN, or sizes below 1.
    """
    if n < 1 or num_grids < 1:
        raise BcosError(f"n and num_grids must be at least 1, got {n} and {num_grids}")
    labels = torch.as_tensor(labels).cpu()
    confidences = torch.as_tensor(confidences).cpu()
    if labels.ndim != 1 or labels.shape != confidences.shape:
        raise BcosError(
            f"labels and confidences must both be (M,), got {tuple(labels.shape)} and {tuple(confidences.shape)}"
        )
    if bool(torch.isnan(confidences).any()):
        raise BcosError(f"{int(torch.isnan(confidences).sum())} confidences are NaN")
    order = torch.argsort(confidences, descending=True, stable=True)
    unused = [order[labels[order] == label].tolist() for label in labels.unique()]  # images of each class
    if len(unused) < n * n:
        raise BcosError(
            f"grids of {n}×{n} need images of at least {n * n} classes, got {len(unused)}; "
            "use a smaller n, or more images that are classified correctly"
        )
    generator = or_default(generator)
    position = [0] * len(unused)
    grids: list[list[int]] = []
    while len(grids) < num_grids:
        left = [c for c, images in enumerate(unused) if position[c] < len(images)]
        if len(left) < n * n:
            break
        drawn = [left[i] for i in torch.randperm(len(left), generator=generator)[: n * n].tolist()]
        grids.append([unused[c][position[c]] for c in drawn])
        for c in drawn:
            position[c] += 1
    return torch.tensor(grids)


@torch.inference_mode(False)  # explainers differentiate what is chosen here
@torch.no_grad()
def play_grids(
    maps: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    confidences: Tensor,
    n: int,
    num_grids: int,
    grids: Tensor | None,
    smooth: int,
    batch_size: int,
    generator: torch.Generator | None,
    encode: Encode | None,
    progress: Progress | None,
) -> GridPointingResult:
    """Draw grids and score maps of them, as all games on grids do; arguments as of :func:`grid_pointing_game`.

    `maps` leads from grids (B, C, n·H, n·W) and the labels of their cells (B, n²) to attributions of these
    (B, n², n·H, n·W); the model says where to and in which precision inputs are needed.

    Raises:
        BcosError: images, labels or grids that do not fit each other.
    """
    labels = torch.as_tensor(labels).cpu()
    requested = num_grids if grids is None else len(grids)
    grids = sample_grids(labels, confidences, n, num_grids, generator) if grids is None else grids
    _check_grids(images, labels, grids, n, batch_size)
    scores = []
    for start in range(0, len(grids), batch_size):
        batch = grids[start : start + batch_size].cpu()  # (B, n²)
        x = as_input(tile(images[batch.to(images.device)], n), model, encode)
        shares = cell_scores(maps(x, labels[batch].to(x.device)).flatten(0, 1), n, smooth)
        own = shares.unflatten(0, batch.shape).diagonal(dim1=1, dim2=2)  # (B, n²): the class's own cell
        scores.append(own.flatten().cpu())
        if progress is not None:
            progress(start + len(batch), len(grids))
    return GridPointingResult(
        scores=torch.cat(scores),
        cluster=n**2,
        higher_is_better=True,
        chance=1 / n**2,
        grids=grids,
        n=n,
        smooth=smooth,
        requested=requested,
    )


def _check_grids(images: Tensor, labels: Tensor, grids: Tensor, n: int, batch_size: int) -> None:
    if batch_size < 1:
        raise BcosError(f"batch_size must be at least 1, got {batch_size}")
    if images.ndim != 4 or len(images) != len(labels):
        raise BcosError(
            f"images must be (M, C, H, W) with a label each, got shape {tuple(images.shape)} and {len(labels)} labels"
        )
    if grids.ndim != 2 or grids.shape[1] != n**2 or len(grids) == 0 or grids.is_floating_point():
        raise BcosError(
            f"grids of {n}×{n} must be (G, {n**2}) indices of images, at least one grid, got shape "
            f"{tuple(grids.shape)} of {grids.dtype}"
        )
    low, high = int(grids.min()), int(grids.max())
    if low < 0 or high >= len(images):
        raise BcosError(f"grids must hold indices of {len(images)} images, got values from {low} to {high}")
