"""RISE."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import (
    Target,
    as_columns,
    class_indices,
    differentiable,
    like_target,
    whole_number,
)
from bcos_explain.explainers.memory import shrinking

_CONFIDENCES = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "logit": lambda logits: logits,
}


@dataclass(frozen=True, kw_only=True)
class Rise:
    """Random masks, averaged with the confidence that the network has under each: ``Σ_i f_k(x ⊙ m_i) m_i / (n p)``.

    Masks are grids of ones (with probability p) and zeros, enlarged bilinearly and shifted at random. All
    images and targets see the same masks, so an attribution does not depend on its batch.

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

    exact: ClassVar[bool] = False
    several_targets: ClassVar[bool] = True
    n_masks: int = 500
    cells: int = 8
    p: float = 0.1
    confidence: Literal["softmax", "sigmoid", "logit"] = "softmax"
    internal_batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_masks", "cells", "internal_batch_size"):
            whole_number(name, getattr(self, name))
        if not 0 < self.p < 1:
            raise BcosError(f"p must be a probability inside (0, 1), got {self.p}")
        if self.confidence not in _CONFIDENCES:
            raise BcosError(f"confidence must be one of {', '.join(_CONFIDENCES)}, got {self.confidence!r}")

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf, torch.no_grad():
            images = leaf.detach()
            indices = class_indices(model(images), target)
            columns = as_columns(indices)
            total = shrinking(
                lambda at_once: self._sum(model, images, columns, at_once // len(images)),
                self.internal_batch_size,
                least=len(images),
            )
            return like_target((total / (self.n_masks * self.p)).to(x.dtype), indices)

    def _sum(self, model: nn.Module, images: Tensor, columns: Tensor, at_once: int) -> Tensor:
        """``Σ_i f_k(x ⊙ m_i) m_i``, (N, T, H, W), float64, `at_once` masks at a time."""
        n = len(images)
        total = torch.zeros(n, columns.shape[1], *images.shape[2:], dtype=torch.float64, device=images.device)
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.n_masks, at_once):
            count = min(at_once, self.n_masks - start)
            masks = torch.stack([self._mask(images.shape[2:], generator) for _ in range(count)]).to(images)
            masked = (images.unsqueeze(0) * masks[:, None, None]).flatten(0, 1)  # masks × images
            scores = _CONFIDENCES[self.confidence](model(masked)).gather(1, columns.repeat(count, 1))
            total += torch.einsum("mnt,mhw->nthw", scores.unflatten(0, (count, n)).double(), masks.double())
        return total

    def _mask(self, size: torch.Size, generator: torch.Generator) -> Tensor:
        """(H, W) in [0, 1]."""
        height, width = size
        cell = (-(-height // self.cells), -(-width // self.cells))
        ones = torch.rand(1, 1, self.cells, self.cells, generator=generator) < self.p
        enlarged = F.interpolate(
            ones.float(), ((self.cells + 1) * cell[0], (self.cells + 1) * cell[1]), mode="bilinear", align_corners=False
        )[0, 0]
        top = int(torch.randint(cell[0], (), generator=generator))
        left = int(torch.randint(cell[1], (), generator=generator))
        return enlarged[top : top + height, left : left + width]
