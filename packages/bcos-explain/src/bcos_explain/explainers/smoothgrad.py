"""SmoothGrad."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Target, as_columns, check_count, class_indices, differentiable, like_target
from bcos_explain.explainers.gradient import image_signs, input_gradients, like_images


@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    """The gradient averaged over noisy copies of the input, ``mean_i ∂f_k/∂x (x + σ·ε_i)``.

    Every image sees the same noise, so its attribution does not depend on its batch. (Captum's
    ``NoiseTunnel`` draws from the process's generator, which threads share.) With inverse channels the noise is
    the image's, so that the copies are still images: what is added to u is taken from 1 - u; and the two parts
    of the derivative by the image are given, as by :class:`~bcos_explain.explainers.Gradient`.

    Args:
        n_samples: noisy copies.
        noise: standard deviation σ, as a share of each image's range ``max x - min x``, without inverse channels.
        seed: of the noise.

    Returns (N, [T,] C, H, W), in units of the logit per unit of the input.

    Raises:
        BcosError: no sample, or noise that is not positive.

    Source: Smilkov et al., *SmoothGrad*, 2017, arXiv 1706.03825.
    """

    several_targets: ClassVar[bool] = True
    n_samples: int = 25
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)
        if not 0 < self.noise < float("inf"):
            raise BcosError(f"noise must be a positive share of the input's range, got {self.noise}")

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            images = leaf.detach()
            with torch.no_grad():
                indices = class_indices(model, model(images), target)
            columns = as_columns(indices)
            signs = image_signs(images)  # (N, C, 1, 1)
            sigma = self.noise * _range(images, signs)
            generator = torch.Generator().manual_seed(self.seed)
            total = torch.zeros_like(images).unsqueeze(1).repeat(1, columns.shape[1], 1, 1, 1)
            for _ in range(self.n_samples):
                drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
                noise = like_images(drawn, signs).to(images)
                total += input_gradients(model, images + sigma * noise, columns)[0]
            return like_target(total / self.n_samples * signs.unsqueeze(1), indices)


def _range(x: Tensor, signs: Tensor) -> Tensor:
    """``max - min`` of each input (N, 1, 1, 1); of encoded images without their inverse channels."""
    seen = signs > 0
    largest = x.where(seen, -torch.inf).amax((1, 2, 3), keepdim=True)
    return largest - x.where(seen, torch.inf).amin((1, 2, 3), keepdim=True)
