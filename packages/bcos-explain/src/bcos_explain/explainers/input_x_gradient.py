"""Input times gradient."""

from dataclasses import dataclass
from typing import ClassVar

import captum.attr
from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, class_scores, differentiable


@dataclass(frozen=True)
class InputXGradient:
    """``x · ∂f_k/∂x``, with the ordinary gradient.

    For a B-cos network this is not its explanation: the gradient also runs through the dynamic factors, which
    :class:`bcos_explain.explainers.BcosContributions` holds constant.

    Returns (N, C, H, W), in units of the logit.

    Source: Shrikumar et al., *Not Just a Black Box*, 2016, arXiv 1605.01713.
    """

    exact: ClassVar[bool] = False

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            method = captum.attr.InputXGradient(lambda images: class_scores(model(images), target))
            attribution: Tensor = method.attribute(leaf)
            return attribution.detach().clone()
