"""Whether contributions and bias make up the explained logit."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core import BcosError, Explanation, explain
from bcos_explain.explainers.contract import Target
from bcos_explain.metrics.batches import as_input


@dataclass(frozen=True)
class CompletenessResult:
    """How far each explanation is from adding up."""

    absolute: Tensor
    """(N,): ``|Σ contributions + bias - logit|``, in units of the logit."""
    relative: Tensor
    """(N,): the same divided by ``Σ |contributions| + |bias| + |logit|``, the size of what was added up."""

    @staticmethod
    def of(explanation: Explanation) -> "CompletenessResult":
        """Measure an explanation with one target an input; summed in float64."""
        if explanation.target.ndim != 1:
            raise BcosError(
                f"completeness needs one target an input, got targets of shape {tuple(explanation.target.shape)}"
            )
        contributions = explanation.contributions.double().flatten(1)
        bias, score = explanation.bias.double(), explanation.score.double()
        absolute = (contributions.sum(1) + bias - score).abs()
        size = contributions.abs().sum(1) + bias.abs() + score.abs()
        return CompletenessResult(absolute, absolute / size.clamp_min(torch.finfo(torch.float64).tiny))

    @property
    def mean(self) -> float:
        """Mean relative distance, the number to report."""
        return float(self.relative.mean())

    def to_dict(self) -> dict[str, float | int]:
        """Summary for JSON."""
        return {
            "count": len(self.absolute),
            "mean_absolute": float(self.absolute.mean()),
            "max_absolute": float(self.absolute.max()),
            "mean_relative": float(self.relative.mean()),
            "max_relative": float(self.relative.max()),
        }


def completeness(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
) -> CompletenessResult:
    """``|Σ contributions + bias - logit|`` of the exact explanation, for each image.

    Rounding error is all that it may show: :func:`bcos_core.explain` refuses a network that it cannot
    explain.

    Args:
        model: in eval mode.
        images: (N, C, H, W), floats, or 8-bit integers that are divided by 255.
        target: None for the predicted class, an integer, or (N,).
        encode: applied to each batch of images, such as :class:`bcos_core.AddInverse`; None for images that
            are encoded already.
        batch_size: images explained at once.

    Raises:
        BcosError: no images, or as :func:`bcos_core.explain`.

    Source: the completeness axiom of Sundararajan et al., ICML 2017, with b(x) as the baseline's output.
    """
    if len(images) == 0 or batch_size < 1:
        raise BcosError(f"completeness needs images and a batch_size of at least 1, got {len(images)} and {batch_size}")
    results = []
    for start in range(0, len(images), batch_size):
        x = as_input(images[start : start + batch_size], model, encode)
        chosen = target[start : start + batch_size] if isinstance(target, Tensor) and target.ndim else target
        results.append(CompletenessResult.of(explain(model, x, chosen)))
    return CompletenessResult(torch.cat([r.absolute for r in results]), torch.cat([r.relative for r in results]))
