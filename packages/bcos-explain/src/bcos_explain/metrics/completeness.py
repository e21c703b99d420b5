"""Whether contributions and bias make up the explained logit."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core import BcosError, Explanation, explain
from bcos_explain.explainers.contract import Target
from bcos_explain.metrics.batches import Encode, Progress, each_batch
from bcos_explain.metrics.result import MetricResult


@dataclass(frozen=True, kw_only=True)
class CompletenessResult(MetricResult):
    """How far each explanation is from adding up; the scores are the relative distances."""

    absolute: Tensor
    """(M,): ``|Σ contributions + bias - logit|``, in units of the logit."""

    @property
    def relative(self) -> Tensor:
        """(M,): the same as a share of what was added up, see :attr:`bcos_core.completeness.Balance.missing`."""
        return self.scores

    @staticmethod
    def of(explanation: Explanation) -> "CompletenessResult":
        """Measure an explanation with one target an input; summed in float64."""
        if explanation.target.ndim != 1:
            raise BcosError(
                f"completeness needs one target an input, got targets of shape {tuple(explanation.target.shape)}"
            )
        parts = explanation.balance
        return CompletenessResult(
            scores=parts.missing.cpu(), absolute=parts.residual.abs().cpu(), higher_is_better=False
        )

    def to_dict(self) -> dict[str, object]:
        """Everything but the absolute distance of each image, for JSON."""
        return super().to_dict() | {
            "mean_absolute": float(self.absolute.mean()),
            "max_absolute": float(self.absolute.max()),
            "mean_relative": float(self.relative.mean()),
            "max_relative": float(self.relative.max()),
        }


def completeness(
    model: nn.Module,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> CompletenessResult:
    """``|Σ contributions + bias - logit|`` of the exact explanation, for each image.

    Rounding error is all that it may show: :func:`bcos_core.explain` refuses a network that it cannot
    explain. A sum that comes out right is no proof, so each map is probed too, and the network must give
    the same outputs without gradients, as those that are evaluated.

    Args:
        model, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.

    Returns:
        Relative distances, lower is better.

    Raises:
        BcosError: no images, or as :func:`bcos_core.explain`.

    Source: the completeness axiom of Sundararajan et al., ICML 2017, with b(x) as the baseline's output.
    """
    batches = each_batch(model, images, target, encode=encode, batch_size=batch_size, progress=progress)
    results = [CompletenessResult.of(explain(model, batch.x, batch.target, probe=True)) for batch in batches]
    return CompletenessResult(
        scores=torch.cat([result.scores for result in results]),
        absolute=torch.cat([result.absolute for result in results]),
        higher_is_better=False,
    )
