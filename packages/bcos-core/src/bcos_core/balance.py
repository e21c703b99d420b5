"""How much rounding may leave over where contributions and constants are added up to a score."""

from collections.abc import Iterable

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
"""Share of ``Σ|contributions| + Σ|constants| + |score|`` that rounding may leave over, by the coarsest type used.

Measured on the smallest network of each of timm's families: at most 1.3e-7 in float32, 3e-16 in float64, 4e-4 in
float16 and 3e-3 in bfloat16, without growth from 52 to 520 operations.
"""


def rounding(dtypes: Iterable[torch.dtype]) -> float:
    """Share that rounding may leave over where values of these floating types are added up."""
    return max((ROUNDING.get(dtype, ROUNDING[torch.bfloat16]) for dtype in dtypes), default=ROUNDING[torch.float32])


def size(contributions: Tensor, terms: Iterable[Tensor], score: Tensor) -> Tensor:
    """``Σ|contributions| + Σ|constants| + |score|``, what the residual is compared with.

    Args:
        contributions: (N, elements) or (N, T, elements).
        terms: constants (N,) or (N, T), one for each name.
        score: (N,) or (N, T).

    Returns:
        (N,) or (N, T), float64.
    """
    constants = sum((term.double().abs() for term in terms), start=torch.zeros_like(score, dtype=torch.float64))
    return contributions.double().abs().sum(-1) + constants + score.double().abs()
