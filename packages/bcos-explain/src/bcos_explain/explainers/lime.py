"""LIME."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import captum.attr
import torch
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Target, as_columns, check_count, class_indices, differentiable, like_target
from bcos_explain.explainers.memory import fit_in_memory
from bcos_explain.explainers.remarks import remark

_KERNEL_WIDTH = 0.25
_CELLS = 8
"""Default cells are this part of the image's shorter side."""


@dataclass(frozen=True, kw_only=True)
class Lime:
    """Coefficients of a linear model of the logit in the presence of square cells of pixels.

    Cells are present or zero, with even chances; the model is fitted by ridge regression to samples weighted by
    ``exp(-d² / 2w²)``, with d the cosine distance of a sample's cells from those of the image (all present)
    and w = 0.25, as in the authors' own implementation for images. A remark says where there are more cells than
    samples.

    Args:
        n_samples: sampled images.
        cell: side of a cell in pixels; None for an eighth of the image's shorter side (4 pixels for 32, as in
            the B-cos papers).
        alpha: strength of the ridge penalty.
        internal_batch_size: images that are passed through the network at once; halved where memory runs out.
        seed: of the samples; the same for every image.

    Returns (N, [T,] H, W), in units of the logit per cell.

    Raises:
        BcosError: a number below 1, or a penalty below 0.

    Source: Ribeiro et al., *Why Should I Trust You?*, KDD 2016; 500 samples as Böhle et al., TPAMI 2024.
    """

    several_targets: ClassVar[bool] = True
    n_samples: int = 500
    cell: int | None = None
    alpha: float = 1.0
    internal_batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_samples", "internal_batch_size"):
            check_count(name, getattr(self, name))
        if self.cell is not None:
            check_count("cell", self.cell)
        if not 0 <= self.alpha < float("inf"):
            raise BcosError(f"alpha must not be negative, got {self.alpha}")

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf, torch.no_grad():
            indices = class_indices(model(leaf), target)
            cells = self._cells(x)
            if (count := int(cells.max()) + 1) > self.n_samples:
                remark(f"{count} coefficients are fitted to {self.n_samples} samples; raise n_samples or cell")
            maps = [
                fit_in_memory(partial(self._one_image, model, image[None], classes, cells), self.internal_batch_size)
                for image, classes in zip(leaf.detach(), as_columns(indices), strict=True)
            ]
            return like_target(torch.stack(maps), indices)

    def _cells(self, x: Tensor) -> Tensor:
        """(1, 1, H, W): number of the cell of each pixel."""
        height, width = x.shape[2:]
        side = self.cell or max(1, min(height, width) // _CELLS)
        rows, columns = (torch.arange(n, device=x.device) // side for n in (height, width))
        return (rows[:, None] * (int(columns[-1]) + 1) + columns)[None, None]

    def _one_image(self, model: nn.Module, image: Tensor, classes: Tensor, cells: Tensor, at_once: int) -> Tensor:
        """Maps (T, H, W) of one image (1, C, H, W)."""
        outputs = _Recorded(model)
        maps = []
        for k in classes.tolist():
            generator = torch.Generator().manual_seed(self.seed)  # the same samples for every target
            method = captum.attr.Lime(
                outputs.column(k),
                interpretable_model=SkLearnRidge(alpha=self.alpha),
                similarity_func=_nearness,
                perturb_func=_coin_tosses(generator),
            )
            attribution = method.attribute(
                image, baselines=0, feature_mask=cells, n_samples=self.n_samples, perturbations_per_eval=at_once
            )
            maps.append(attribution[0, 0].to(image.dtype))
        return torch.stack(maps)


def _nearness(_original: Tensor, _perturbed: Tensor, cells: Tensor, **_: Any) -> float:
    """Weight of a sample with some `cells` (1, cells) present: ``1 - √share`` is their cosine distance from all."""
    distance = 1 - math.sqrt(float(cells.float().mean()))
    return math.exp(-(distance**2) / (2 * _KERNEL_WIDTH**2))


def _coin_tosses(generator: torch.Generator) -> Callable[..., Tensor]:
    def perturb(original: Tensor, **given: Any) -> Tensor:
        tosses = torch.rand(1, given["num_interp_features"], generator=generator) < 0.5
        return tosses.to(original.device, torch.long)

    return perturb


class _Recorded:
    """Logits of a sequence of batches, computed once and reused each time the same sequence is passed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.logits: list[Tensor] = []

    def column(self, k: int) -> Callable[[Tensor], Tensor]:
        """Forward function of logit k, from the start of the sequence."""
        position = 0

        def forward(images: Tensor) -> Tensor:
            nonlocal position
            if position == len(self.logits):
                self.logits.append(self.model(images))
            position += 1
            return self.logits[position - 1][:, k]

        return forward
