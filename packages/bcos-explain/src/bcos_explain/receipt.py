"""The receipt of an explanation: what a logit is made of, and whether it adds up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core import BcosError, Explanation, LogitLayer

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Share of ``Σ|contributions| + |bias| + |score|`` that rounding may leave over, as for :func:`bcos_core.explain`."""
LOW_PRECISION = 1e-2
"""The same where a lower precision is used."""

LOGIT_BIAS = "logit bias"
NORMS = "norm shifts"
LAYERS = "layer biases"
POSITIONS = "positions and tokens"
IMAGES = "input normalisation"
CONSTANTS = "other constants"

_UNNAMED = "constant"
"""What :func:`bcos_core.explain` calls constants that are neither parameter nor buffer."""
_IMAGE_MEANS = ("mean of the images", "mean", "pixel_mean", "image_mean")


@dataclass(frozen=True)
class Receipt:
    """``score = contributions + bias + residual``, in units of the logit."""

    score: float
    """What was explained, as the network computed it."""
    contributions: float
    """Sum of ``W(x)·x`` over the input."""
    bias: float
    """What does not come from the input: the sum of `terms`."""
    terms: Mapping[str, float]
    """What `bias` is made of, by origin."""
    residual: float
    """What is left over."""
    allowed: float
    """Largest residual that is rounding."""

    @property
    def passed(self) -> bool:
        """Whether it adds up."""
        return abs(self.residual) <= self.allowed

    @property
    def equation(self) -> str:
        """``score = contributions + bias``, in numbers."""
        sign = "−" if self.bias < 0 else "+"
        parts = (self.score, self.contributions, abs(self.bias))
        score, contributions, bias = (number(part, largest=max(map(abs, parts))) for part in parts)
        return f"{score} = {contributions} {sign} {bias} bias"

    @property
    def verdict(self) -> str:
        """``adds up``, or what is missing."""
        return "adds up" if self.passed else f"{number(self.residual)} missing"


def receipts(explanation: Explanation, *, model: nn.Module | None = None) -> list[list[Receipt]]:
    """A receipt for each image and target, (N, T) in nested lists.

    Args:
        explanation: of any network.
        model: the explained one, to sum its constants by origin (logit bias, norm shifts, layer biases,
            positions and tokens, input normalisation, other constants). None leaves them by name.
    """
    n = len(explanation.target)
    scores = explanation.score.reshape(n, -1)
    targets = scores.shape[1]
    contributions = explanation.contributions.reshape(n, targets, -1)
    named = {name: term.reshape(n, -1).tolist() for name, term in explanation.bias_terms.items()}
    allowed = TOLERANCE.get(scores.dtype, LOW_PRECISION)
    made = []
    for i in range(n):
        row = []
        for t in range(targets):
            terms = {name: values[i][t] for name, values in named.items()}
            score, bias = float(scores[i, t]), float(explanation.bias.reshape(n, -1)[i, t])
            parts = contributions[i, t].double()
            row.append(
                Receipt(
                    score=score,
                    contributions=(total := float(parts.sum())),
                    bias=bias,
                    terms=terms if model is None else by_origin(terms, model),
                    residual=score - total - bias,
                    allowed=allowed * (float(parts.abs().sum()) + sum(map(abs, terms.values())) + abs(score)),
                )
            )
        made.append(row)
    return made


def by_origin(terms: Mapping[str, float], model: nn.Module) -> dict[str, float]:
    """Sum the terms of a bias by where they come from; largest first.

    Raises:
        BcosError: no module.
    """
    if not isinstance(model, nn.Module):
        raise BcosError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    sums: dict[str, float] = {}
    for name, value in terms.items():
        origin = _origin(name, value, model)
        sums[origin] = sums.get(origin, 0.0) + value
    return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))


def number(value: float, *, largest: float | None = None) -> str:
    """A logit with two decimals, more if it is below 1, and a minus sign that is as wide as a plus.

    Args:
        value: in units of the logit.
        largest: of those that it is shown beside with as many decimals; None for itself.
    """
    size = abs(value) if largest is None else largest
    decimals = 2 if size >= 1 or size == 0 else min(6, 2 - math.floor(math.log10(size)))
    return f"{value:.{decimals}f}".replace("-", "−")


def _origin(name: str, value: float, model: nn.Module) -> str:
    owner, _, leaf = name.rpartition(".")
    if leaf in _IMAGE_MEANS:
        return IMAGES
    if name == _UNNAMED:
        return LOGIT_BIAS if _is_logit_bias(value, model) else CONSTANTS
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return CONSTANTS
    if _is_norm(module):
        return NORMS
    return LAYERS if leaf.endswith("bias") else POSITIONS


def _is_norm(module: nn.Module) -> bool:
    running = getattr(module, "running_var", None)
    return isinstance(running, Tensor) or "norm" in type(module).__name__.lower()


def _is_logit_bias(value: float, model: nn.Module) -> bool:
    biases = [m.logit_bias for m in model.modules() if isinstance(m, LogitLayer) and m.logit_bias]
    return bool(biases) and math.isclose(value, sum(biases), rel_tol=1e-4)
