"""The network's own explanation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_core import Explanation, explain
from bcos_core.targets import Target as OutputTarget
from bcos_explain.explainers.contract import Target, differentiable


@dataclass(frozen=True)
class BcosContributions:
    """Contributions ``W_k(x) · x`` of the dynamic linear map, exact: their sum and the bias are the logit.

    See :func:`bcos_core.explain`, which also returns W, the bias and what that is made of.

    Returns (N, [T,] C, H, W), in units of the logit.

    Source: Böhle et al., TPAMI 2024, section 3.2.
    """

    exact: ClassVar[bool] = True
    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            return explain(model, leaf, target).contributions.detach().clone()

    def explanation(
        self, model: nn.Module, x: Tensor, target: OutputTarget = None, *, probe: bool | None = None
    ) -> Explanation:
        """Explain outputs with W, bias and all else, as :func:`bcos_core.explain`."""
        return explain(model, x, target, probe=probe)


@dataclass(frozen=True)
class RelativeContributions:
    """Contributions to ``f_k - mean_j f_j``: what speaks for this class in particular.

    They sum, with the bias of that difference, to the difference, not to the logit.

    Returns (N, [T,] C, H, W), in units of the logit.

    Source: as :class:`BcosContributions`; the reference implementation's option of the same purpose.
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the distance of the logits of `target` from the mean."""
        with differentiable(model, x) as leaf:
            return explain(model, leaf, target, relative=True).contributions.detach().clone()
