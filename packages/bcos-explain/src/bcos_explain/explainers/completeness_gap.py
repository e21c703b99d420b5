"""How far attributions that should sum to a difference of logits are from it."""

from torch import Tensor

from bcos_core.completeness import balance
from bcos_explain.explainers.remarks import remark

_SHARE = 0.01
"""Of the difference; a smaller gap is not worth a remark."""
_ROUNDING = 1e-4
"""Of the sum of absolute attributions; a smaller gap is rounding."""


def remark_on_gap(attribution: Tensor, difference: Tensor, cure: str) -> None:
    """Say where ``Σ attribution`` misses more than 1 % of ``f(x) - f(0)``.

    Args:
        attribution: (N, T, C, H, W).
        difference: (N, T), ``f(x) - f(0)`` of the explained logits.
        cure: what to do, or why it is so.
    """
    parts = balance(attribution.flatten(2), [], difference)
    gap = parts.residual.abs()
    missed = (gap > _SHARE * parts.score.abs()) & (gap > _ROUNDING * parts.absolute)
    remark(f"the map's sum misses {{share}} of f(x) - f(0); {cure}", missed, gap / parts.score.abs())
