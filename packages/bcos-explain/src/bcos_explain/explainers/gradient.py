"""The gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, as_columns, class_indices, differentiable, like_target
from bcos_explain.explainers.inverse_channels import image_signs
from bcos_explain.explainers.target_gradients import target_gradients


@dataclass(frozen=True)
class Gradient:
    """``∂f_k/∂x``, the ordinary gradient, signed.

    Of an image u that is encoded with inverse channels, ``x = [u, 1 - u]``, the two parts of its derivative:
    ``[∂f_k/∂x_c, -∂f_k/∂x_(c+C)]``. Summed over channels they are the derivative by the image, where the sum of
    ``∂f_k/∂x`` would say what changes if both u and 1 - u grew, which they cannot.

    Returns (N, [T,] C, H, W), in units of the logit per unit of the input.

    Source: Simonyan et al., *Deep Inside Convolutional Networks*, 2013, arXiv 1312.6034 (there without sign).
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        gradients, indices = input_gradients(model, x, target)
        return like_target(gradients * image_signs(x.detach()).unsqueeze(1), indices)


def input_gradients(model: nn.Module, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """``∂f_k/∂x`` by each input channel, (N, T, C, H, W), and the classes (N,) or (N, T)."""
    with differentiable(model, x) as leaf:
        logits = model(leaf)
        indices = class_indices(logits, target)
        gradients = target_gradients(logits, as_columns(indices), leaf)
        assert gradients is not None  # a network whose outputs do not depend on the input has no logits
        return gradients, indices
