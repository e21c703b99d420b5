"""Input times gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_explain.explainers.contract import Target
from bcos_explain.explainers.gradient import Gradient


@dataclass(frozen=True)
class InputXGradient:
    """``x · ∂f_k/∂x``, with the ordinary gradient.

    For a B-cos network this is not its explanation: the gradient also runs through the dynamic factors, which
    :class:`bcos_explain.explainers.BcosContributions` holds constant.

    Returns (N, [T,] C, H, W), in units of the logit.

    Source: Shrikumar et al., *Not Just a Black Box*, 2016, arXiv 1605.01713.
    """

    exact: ClassVar[bool] = False
    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        gradient = Gradient()(model, x, target)
        return gradient * (x.detach().unsqueeze(1) if gradient.ndim == 5 else x.detach())
