"""Input times gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, like_target
from bcos_explain.explainers.gradient import input_gradients


@dataclass(frozen=True)
class InputXGradient:
    """``x · ∂f_k/∂x``, with the ordinary gradient.

    With inverse channels, ``x = [u, 1 - u]``, it is what the image and its inverse contribute together,
    ``u·∂f_k/∂x_c + (1 - u)·∂f_k/∂x_(c+C)``: a decomposition over the encoded input, in which nothing has to change
    its sign. So it is for integrated gradients and DeepLIFT.

    For a B-cos network this is not its explanation: the gradient also runs through the dynamic factors, which
    :class:`bcos_explain.explainers.BcosContributions` holds constant.

    Returns (N, [T,] C, H, W), in units of the logit.

    Source: Shrikumar et al., *Not Just a Black Box*, 2016, arXiv 1605.01713.
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        gradients, indices = input_gradients(model, x, target)
        return like_target(x.detach().unsqueeze(1) * gradients, indices)
