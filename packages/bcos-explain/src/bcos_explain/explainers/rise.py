"""RISE."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Target, as_columns, check_count, class_indices, differentiable, like_target
from bcos_explain.explainers.memory import fit_in_memory
from bcos_explain.explainers.remarks import remark

_NOISE = 0.2
"""Share of a map's variance that may come from the draw of the masks without a remark."""

_CONFIDENCES = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "logit": lambda logits: logits,
}


@dataclass(frozen=True, kw_only=True)
class Rise:
    """Random masks, averaged with the confidence that the network has under each: ``Σ_i f_k(x ⊙ m_i) m_i / (n p)``.

    Masks are grids of ones (with probability p) and zeros, enlarged bilinearly and shifted at random. All
    images and targets see the same masks, so an attribution does not depend on its batch. The maps of the masks
    with even and with odd numbers correlate by r; ``(1 - r) / (1 + r)`` of the variance of their mean is noise of
    the draw. Where that is above 20 % a remark says so.

    Args:
        n_masks: number of masks.
        cells: cells in a row and a column of a mask.
        p: probability of a one.
        confidence: what f is, ``"softmax"`` (as in the paper), ``"sigmoid"`` or ``"logit"``.
        internal_batch_size: images that are passed through the network at once, at least the batch itself;
            halved where memory runs out.
        seed: of the masks.

    Returns (N, [T,] H, W).

    Raises:
        BcosError: a number below 1, a probability outside (0, 1), or an unknown confidence.

    Source: Petsiuk et al., *RISE*, BMVC 2018; n, cells and p as Böhle et al., TPAMI 2024.
    """

    several_targets: ClassVar[bool] = True
    n_masks: int = 500
    cells: int = 8
    p: float = 0.1
    confidence: Literal["softmax", "sigmoid", "logit"] = "softmax"
    internal_batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_masks", "cells", "internal_batch_size"):
            check_count(name, getattr(self, name))
        if not 0 < self.p < 1:
            raise BcosError(f"p must be a probability inside (0, 1), got {self.p}")
        if self.confidence not in _CONFIDENCES:
            raise BcosError(f"confidence must be one of {', '.join(_CONFIDENCES)}, got {self.confidence!r}")

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf, torch.no_grad():
            images = leaf.detach()
            indices = class_indices(model, model(images), target)
            columns = as_columns(indices)
            halves = fit_in_memory(
                lambda at_once: self._sums(model, images, columns, at_once // len(images)),
                self.internal_batch_size,
                least=len(images),
            )
            if self.n_masks > 1:
                noise = _noise_of_mean(*halves)
                remark(
                    "about {share} of the map's variance is noise of the masks; raise n_masks", noise > _NOISE, noise
                )
            return like_target((halves.sum(0) / (self.n_masks * self.p)).to(x.dtype), indices)

    def _sums(self, model: nn.Module, images: Tensor, columns: Tensor, at_once: int) -> Tensor:
        """``Σ_i f_k(x ⊙ m_i) m_i`` of even and of odd i, (2, N, T, H, W), float64, `at_once` masks at a time."""
        n = len(images)
        halves = torch.zeros(2, n, columns.shape[1], *images.shape[2:], dtype=torch.float64, device=images.device)
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.n_masks, at_once):
            count = min(at_once, self.n_masks - start)
            masks = torch.stack([self._mask(images.shape[2:], generator) for _ in range(count)]).to(images)
            masked = (images.unsqueeze(0) * masks[:, None, None]).flatten(0, 1)  # masks × images
            scores = _CONFIDENCES[self.confidence](model(masked)).gather(1, columns.repeat(count, 1))
            scores = scores.unflatten(0, (count, n)).double()
            for first in (0, 1):
                chosen = slice(first, None, 2)
                halves[(start + first) % 2] += torch.einsum("mnt,mhw->nthw", scores[chosen], masks[chosen].double())
        return halves

    def _mask(self, size: torch.Size, generator: torch.Generator) -> Tensor:
        """(H, W) in [0, 1]."""
        height, width = size
        cell = (-(-height // self.cells), -(-width // self.cells))
        ones = torch.rand(1, 1, self.cells, self.cells, generator=generator, dtype=torch.float32) < self.p
        enlarged = F.interpolate(
            ones.float(), ((self.cells + 1) * cell[0], (self.cells + 1) * cell[1]), mode="bilinear", align_corners=False
        )[0, 0]
        top = int(torch.randint(cell[0], (), generator=generator))
        left = int(torch.randint(cell[1], (), generator=generator))
        return enlarged[top : top + height, left : left + width]


def _noise_of_mean(one: Tensor, other: Tensor) -> Tensor:
    """Share of noise in the variance of the mean of two maps (N, T, H, W) that differ by noise alone: (N, T)."""
    one, other = (maps.flatten(2) - maps.flatten(2).mean(2, keepdim=True) for maps in (one, other))
    r = torch.cosine_similarity(one, other, dim=-1)
    return ((1 - r) / (1 + r).clamp_min(1e-9)).clamp_max(1)
