"""The gradient."""

from dataclasses import dataclass
from typing import ClassVar

import captum.attr
from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, differentiable, like_target
from bcos_explain.explainers.gradients import SharedForward


@dataclass(frozen=True)
class Gradient:
    """``∂f_k/∂x``, the ordinary gradient, signed.

    Returns (N, [T,] C, H, W), in units of the logit per unit of the input.

    Source: Simonyan et al., *Deep Inside Convolutional Networks*, 2013, arXiv 1312.6034 (there without sign).
    """

    exact: ClassVar[bool] = False
    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            method = captum.attr.Saliency(model)
            method.gradient_func = shared = SharedForward(target)
            return like_target(method.attribute(leaf, abs=False), shared.indices)
