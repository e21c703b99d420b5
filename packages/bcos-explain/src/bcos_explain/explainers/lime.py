"""LIME."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from sklearn.linear_model import Ridge
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
            indices = class_indices(model, model(leaf), target)
            cells = self._cells(x)
            if (count := int(cells.max()) + 1) > self.n_samples:
                remark(f"{count} coefficients are fitted to {self.n_samples} samples; raise n_samples or cell")
            maps = [
                fit_in_memory(partial(self._one_image, model, image, classes, cells), self.internal_batch_size)
                for image, classes in zip(leaf.detach(), as_columns(indices), strict=True)
            ]
            return like_target(torch.stack(maps), indices)

    def _cells(self, x: Tensor) -> Tensor:
        """(H, W): number of the cell of each pixel."""
        height, width = x.shape[2:]
        side = self.cell or max(1, min(height, width) // _CELLS)
        rows, columns = (torch.arange(n, device=x.device) // side for n in (height, width))
        return rows[:, None] * (int(columns[-1]) + 1) + columns

    def _one_image(self, model: nn.Module, image: Tensor, classes: Tensor, cells: Tensor, at_once: int) -> Tensor:
        """Maps (T, H, W) of one image (C, H, W)."""
        generator = torch.Generator().manual_seed(self.seed)
        size = (self.n_samples, int(cells.max()) + 1)
        present = torch.rand(size, generator=generator, dtype=torch.float32) < 0.5  # (samples, cells)
        distance = 1 - present.double().mean(1).sqrt()  # of the cosine, from all cells
        nearness = (-(distance**2) / (2 * _KERNEL_WIDTH**2)).exp()
        batches = present.to(image).split(at_once)
        logits = torch.cat([model(image * part[:, None, cells])[:, classes] for part in batches])  # (samples, T)
        ridge = Ridge(alpha=self.alpha)
        ridge.fit(present.numpy(), logits.double().cpu().numpy(), sample_weight=nearness.numpy())
        coefficients = torch.from_numpy(ridge.coef_).to(image).reshape(len(classes), -1)  # (T, cells)
        return coefficients[:, cells]
