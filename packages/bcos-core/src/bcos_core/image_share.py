"""How much of a score its map accounts for: the image's share, and what is left of contributions after they cancel.

This is the one place where both are computed: explanations, receipts, the metrics of these names, pictures and reports
all use it.
"""

import math

from torch import Tensor

LOW_SHARE = 0.5
"""Below this share the map accounts for less of a score than the bias does, and a reader is warned."""


def image_share(contributions: Tensor, bias: Tensor) -> Tensor:
    """``|Σ contributions| / (|Σ contributions| + |bias|)``, elementwise; NaN where both are zero.

    Args:
        contributions: ``Σ contributions``, any shape. Not ``Σ |contributions|``: a map of thousands for and thousands
            against accounts for what is left of them.
        bias: without the constant of the logit layer, which is the same for every image and class.
    """
    size = contributions.abs()
    return size / (size + bias.abs())


def cancellation(contributions: Tensor, absolute: Tensor) -> Tensor:
    """``|Σ contributions| / Σ |contributions|``, elementwise: 1 where all have one sign; NaN where all are zero."""
    return contributions.abs() / absolute


def percent(share: float) -> str:
    """Return a share in whole per cent, in one digit below 1 %; ``undefined`` for NaN."""
    if math.isnan(share):
        return "undefined"
    return f"{100 * share:.1g} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
