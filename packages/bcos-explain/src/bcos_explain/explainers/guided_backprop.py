"""Guided backpropagation."""

from dataclasses import dataclass
from typing import ClassVar

import captum.attr
from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, differentiable, like_target
from bcos_explain.explainers.gradients import SharedForward
from bcos_explain.explainers.structure import hookable, without_captums_warnings


@dataclass(frozen=True)
class GuidedBackprop:
    """The gradient, with negative parts set to zero at every ReLU on the way back.

    Known ReLUs are modules ``nn.ReLU``; a network without any, as most B-cos networks are, gets its ordinary
    gradient.

    Returns (N, [T,] C, H, W), in units of the logit per unit of the input.

    Source: Springenberg et al., *Striving for Simplicity*, ICLR workshop 2015, arXiv 1412.6806.
    """

    exact: ClassVar[bool] = False
    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            method = captum.attr.GuidedBackprop(hookable(model))
            method.gradient_func = shared = SharedForward(target)
            with without_captums_warnings():
                gradient = method.attribute(leaf)
            return like_target(gradient, shared.indices)
