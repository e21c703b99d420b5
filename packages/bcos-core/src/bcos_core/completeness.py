"""Whether an explanation adds up: ``score = Σ contributions + Σ constants + residual``, the residual within rounding.

This is the one place where that is computed: :func:`bcos_core.explain` and its probe, receipts, the metric
completeness and what ``bcos eval`` requires all use it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
    torch.complex128: 1e-12,
    torch.complex64: 1e-6,
}
"""Share of :attr:`Balance.size` that rounding may leave over, by the coarsest type used.

Measured on the smallest network of each of timm's families: at most 1.3e-7 in float32, 3e-16 in float64, 4e-4 in
float16 and 3e-3 in bfloat16, without growth from 52 to 520 operations.
"""


def rounding(dtypes: Iterable[torch.dtype] = ()) -> float:
    """Share that rounding may leave over where values of these types are added up; of float32 if none is given."""
    return max((ROUNDING.get(dtype, ROUNDING[torch.bfloat16]) for dtype in dtypes), default=ROUNDING[torch.float32])


@dataclass(frozen=True)
class Balance:
    """The parts of scores, (N,) or (N, T), in float64."""

    score: Tensor
    contributions: Tensor
    """``Σ contributions``."""
    absolute: Tensor
    """``Σ |contributions|``."""
    bias: Tensor
    """``Σ constants``."""
    size: Tensor
    """``Σ |contributions| + Σ |constants| + |score| + |largest part|``, what the residual is compared with."""

    @property
    def residual(self) -> Tensor:
        """``score - Σ contributions - Σ constants``."""
        return self.score - self.contributions - self.bias

    @property
    def missing(self) -> Tensor:
        """The residual as a share of the size."""
        return self.residual.abs() / self.size.clamp_min(torch.finfo(torch.float64).tiny)


def balance(
    contributions: Tensor,
    terms: Iterable[Tensor],
    score: Tensor,
    *,
    bias: Tensor | None = None,
    largest: Tensor | None = None,
) -> Balance:
    """Add up the parts of scores.

    Args:
        contributions: (N, elements) or (N, T, elements).
        terms: constants (N,) or (N, T), one for each name.
        score: (N,) or (N, T).
        bias: of the shape of `score`; None for the sum of `terms`.
        largest: of a shape that broadcasts with `score`: the largest of the outputs that it is a sum or difference of.
    """
    # The network rounds its outputs and each term, not their sum. A score near zero that is a difference of large
    # outputs, or in which large contributions cancel, is off by their rounding: the share is of all that was added.
    contributions, score = contributions.detach().double(), score.detach().double()
    constants = [term.detach().double() for term in terms]
    zero = torch.zeros_like(score)
    absolute = contributions.abs().sum(-1)
    size = absolute + sum((term.abs() for term in constants), start=zero) + score.abs()
    return Balance(
        score=score,
        contributions=contributions.sum(-1),
        absolute=absolute,
        bias=sum(constants, start=zero) if bias is None else bias.detach().double(),
        size=size if largest is None else size + largest.double(),
    )


def is_rounding(missing: Tensor, dtypes: Iterable[torch.dtype] = ()) -> Tensor:
    """Whether shares that are missing are what rounding leaves over; never true of NaN."""
    return missing <= rounding(dtypes)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest value among those that differ: a mask of -1e9 is in both."""
    largest = float((a - b).abs().max())
    return largest / size_apart(a, b) if largest else 0.0


def size_apart(a: Tensor, b: Tensor) -> float:
    """Largest absolute value among those that differ."""
    apart = torch.maximum(a.abs(), b.abs())[a != b]
    return float(apart.max()) if len(apart) else 0.0
