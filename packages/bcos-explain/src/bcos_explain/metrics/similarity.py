"""Similarity of two maps."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_core import BcosError

Similarity = Literal["pearson", "spearman", "ssim"]

SSIM_WINDOW = 7
_SSIM_K1, _SSIM_K2 = 0.01, 0.03


def similarity(a: Tensor, b: Tensor, kind: Similarity) -> Tensor:
    """Similarity of each pair of maps (N, H, W); 1 for equal ones.

    Raises:
        BcosError: an unknown kind, or maps of different shapes.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise BcosError(f"maps (N, H, W) of one shape are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    if kind == "pearson":
        return pearson(a.flatten(1), b.flatten(1))
    if kind == "spearman":
        return pearson(ranks(a.flatten(1)), ranks(b.flatten(1)))
    if kind == "ssim":
        return ssim(a, b)
    raise BcosError(f"similarity must be 'pearson', 'spearman' or 'ssim', got {kind!r}")


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the rows of (N, P), in float64; NaN where one of them is constant."""
    a, b = a.double(), b.double()
    constant = (a == a[:, :1]).all(1) | (b == b[:, :1]).all(1)
    a, b = (F.normalize(t - t.mean(1, keepdim=True), dim=1, eps=0.0) for t in (a, b))
    return torch.where(constant, torch.nan, (a * b).sum(1))


def ranks(values: Tensor) -> Tensor:
    """Ranks in each row of (N, P), from 1; equal values share the mean of theirs. In float64."""
    values = values.contiguous()
    ordered = values.sort(1).values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to + 1).double() / 2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of signed maps (N, H, W), in float64; NaN where a map is zero.

    Each map is divided by its largest absolute value, so that the range of values is 2. Windows are uniform, of
    7×7 pixels, and lie inside of the map.

    Raises:
        BcosError: maps smaller than the window.

    Source: Wang et al., *Image Quality Assessment*, IEEE TIP 2004.
    """
    if min(a.shape[1:]) < SSIM_WINDOW:
        raise BcosError(f"SSIM needs maps of at least {SSIM_WINDOW}×{SSIM_WINDOW} pixels, got {tuple(a.shape[1:])}")
    a, b = (t.double() / t.double().abs().amax((1, 2), keepdim=True) for t in (a, b))

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[:, None], SSIM_WINDOW, stride=1)[:, 0]

    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (2 * _SSIM_K1) ** 2, (2 * _SSIM_K2) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean((1, 2))
