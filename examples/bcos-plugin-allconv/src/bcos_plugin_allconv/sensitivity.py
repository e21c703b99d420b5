"""The explainer of the package."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, class_indices, differentiable


@dataclass(frozen=True)
class SquaredGradient:
    """``(∂f_k/∂x)²``: how sensitive a logit is to each value of the input, whatever the sign.

    Args:
        power: exponent of the absolute gradient.
    """

    power: float = 2.0

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain one class of each image; returns (N, C, H, W)."""
        with differentiable(model, x) as leaf:
            logits = model(leaf)
            chosen = logits.gather(1, class_indices(model, logits, target)[:, None])
            (gradient,) = torch.autograd.grad(chosen.sum(), leaf)
        return gradient.detach().abs() ** self.power
