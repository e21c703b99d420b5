"""The network's own explanation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_core import explain
from bcos_explain.explainers.contract import Target, differentiable


@dataclass(frozen=True)
class BcosContributions:
    """Contributions ``W_k(x) · x`` of the dynamic linear map, exact: their sum and the bias are the logit.

    See :func:`bcos_core.explain`, which also returns W, the bias and what that is made of.

    Returns (N, C, H, W), in units of the logit.

    Source: Böhle et al., TPAMI 2024, section 3.2.
    """

    exact: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            return explain(model, leaf, target).contributions.detach().clone()
