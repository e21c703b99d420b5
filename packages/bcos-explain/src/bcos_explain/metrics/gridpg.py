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
from bcos_explain.explainers.contract import Explainer, spatial_map
from bcos_explain.metrics.batches import as_input

Progress = Callable[[int, int], None]

DEFAULT_SEED = 0
"""Of the generator that is made where none is given."""


@dataclass(frozen=True)
class GridPointingResult:
    """Scores of one explainer."""

    scores: Tensor
    """(G·n²,), float64: one for each cell of each grid, grid by grid, cells row by row."""
    grids: Tensor
    """(G, n²): indices of the tiled images."""
    n: int
    smooth: int
    requested: int
    """Grids that were asked for; fewer were played if the classes ran out of images."""

    @property
    def mean(self) -> float:
        """Mean score; 1 is perfect."""
        return float(self.scores.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the scores (0 for a single one)."""
        return float(self.scores.std()) if len(self.scores) > 1 else 0.0

    @property
    def chance(self) -> float:
        """Score of a uniform attribution: ``1 / n²``."""
        return 1 / self.n**2

    def bootstrap_interval(
        self, level: float = 0.95, *, resamples: int = 1000, generator: torch.Generator | None = None
    ) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean.

        Whole grids are resampled, as the cells of a grid depend on each other.

        Args:
            level: probability that the interval should cover the mean.
            resamples: number of bootstrap samples.
            generator: None for one with a fixed seed.
        """
        if not 0 < level < 1 or resamples < 1:
            raise BcosError(f"level must be inside (0, 1) and resamples at least 1, got {level} and {resamples}")
        means = self.scores.reshape(len(self.grids), -1).mean(1)  # (G,)
        drawn = torch.randint(len(means), (resamples, len(means)), generator=_or_default(generator))
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)
        low, high = torch.quantile(means[drawn].mean(1), tails).tolist()
        return low, high

    def to_dict(self) -> dict[str, object]:
        """Everything but the images' indices, for JSON."""
        return {
            "mean": self.mean,
            "std": self.std,
            "interval_95": list(self.bootstrap_interval()),
            "chance": self.chance,
            "n": self.n,
            "smooth": self.smooth,
            "grids": len(self.grids),
            "requested": self.requested,
            "scores": self.scores.tolist(),
        }


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


def cell_scores(attribution: Tensor, n: int, smooth: int = 1) -> Tensor:
    """Share of the positive attribution in each cell of an n×n grid.

    ``score_c = Σ_{p in cell c} a⁺_p / Σ_p a⁺_p`` with ``a⁺ = max(0, smoothed attribution)``.

    Args:
        attribution: (N, n·H, n·W), signed.
        n: cells in a row and in a column.
        smooth: size k of the k×k mean filter that the signed attribution passes first; odd, 1 for none.
            Outside of the map there are zeros, which count in the mean.

    Returns:
        (N, n²), row by row. A map without any positive attribution points nowhere and scores 0 in each cell.

    Raises:
        BcosError: a shape that has no n×n cells, an even `smooth`, or values that are not finite.
    """
    if attribution.ndim != 3 or attribution.shape[1] % n or attribution.shape[2] % n:
        raise BcosError(
            f"attribution must be (N, H, W) with H and W multiples of n={n}, got shape {tuple(attribution.shape)}"
        )
    if smooth < 1 or smooth % 2 == 0:
        raise BcosError(f"smooth must be odd and at least 1, got {smooth}; use 1 for no smoothing")
    if not bool(torch.isfinite(attribution).all()):
        raise BcosError("the attribution holds non-finite values (NaN or infinity); there is no share of these")
    signed = attribution.double()
    if smooth > 1:
        signed = F.avg_pool2d(signed[:, None], smooth, stride=1, padding=smooth // 2)[:, 0]
    cells = signed.clamp_min(0).unflatten(2, (n, -1)).unflatten(1, (n, -1)).sum((2, 4)).flatten(1)  # (N, n²)
    total = cells.sum(1, keepdim=True)
    return torch.where(total > 0, cells / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)


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
    generator = _or_default(generator)
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


def grid_pointing_game(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    labels: Tensor,
    confidences: Tensor,
    *,
    n: int = 2,
    num_grids: int = 250,
    smooth: int = 1,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
    encode: Callable[[Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> GridPointingResult:
    """Play the grid pointing game on correctly classified images.

    The paper plays 250 grids of 2×2 or 500 of 3×3, of images that are classified correctly with a probability
    above 0.5, with smooth=1 for CIFAR-10 and 15 for ImageNet.

    Args:
        model: in eval mode; must take images n times as large.
        explainer: see :class:`bcos_explain.explainers.Explainer`; channels are summed.
        images: (M, C, H, W), floats, or 8-bit integers that are divided by 255. They may stay on the CPU:
            each batch of grids is moved to the model's device.
        labels: (M,).
        confidences: (M,), of the labelled class.
        n: images in a row and in a column of a grid.
        num_grids: how many grids.
        smooth: size of the mean filter that attributions pass first; odd.
        batch_size: grids explained at once.
        generator: draws the grids; None for one with a fixed seed. With the same seed all explainers play the
            same grids.
        encode: applied to the tiled images, such as :class:`bcos_core.AddInverse`; None for encoded images.
        progress: called with the number of grids done and of all grids, after each batch.

    Raises:
        BcosError: as :func:`sample_grids`, or an explainer that returns another shape.
    """
    if batch_size < 1:
        raise BcosError(f"batch_size must be at least 1, got {batch_size}")
    if images.ndim != 4 or len(images) != len(labels):
        raise BcosError(
            f"images must be (M, C, H, W) with a label each, got shape {tuple(images.shape)} and {len(labels)} labels"
        )
    labels = labels.cpu()
    grids = sample_grids(labels, confidences, n, num_grids, generator)
    scores = []
    for start in range(0, len(grids), batch_size):
        batch = grids[start : start + batch_size]  # (G, n²)
        x = as_input(tile(images[batch.to(images.device)], n), model, encode)
        scores.append(_own_cell_scores(model, explainer, x, labels[batch], n, smooth))
        if progress is not None:
            progress(start + len(batch), len(grids))
    return GridPointingResult(torch.cat(scores).flatten(), grids, n, smooth, num_grids)


def _own_cell_scores(model: nn.Module, explainer: Explainer, x: Tensor, labels: Tensor, n: int, smooth: int) -> Tensor:
    """(G, n²): for each cell of each grid the score of its class in it."""
    scores = []
    for cell in range(n * n):
        attribution = spatial_map(explainer(model, x, labels[:, cell].to(x.device)))
        if attribution.shape != (len(x), *x.shape[2:]):
            raise BcosError(
                f"the explainer gave maps of shape {tuple(attribution.shape)} for inputs of shape {tuple(x.shape)}"
            )
        scores.append(cell_scores(attribution.detach(), n, smooth)[:, cell].cpu())
    return torch.stack(scores, 1)


def _or_default(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(DEFAULT_SEED) if generator is None else generator
