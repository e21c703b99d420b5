"""Binary cross-entropies for single-label and multi-label training of B-cos networks."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core.errors import BcosError

Reduction = Literal["mean", "sum", "none"]


def dense_targets(logits: Tensor, target: Tensor) -> Tensor:
    """Targets as probabilities of the shape of `logits` (N, K), from class indices (N,) in [0, K) or as they are."""
    if target.shape == logits.shape:
        return target.to(logits.dtype)
    if target.shape != logits.shape[:1] or target.is_floating_point():
        raise BcosError(
            f"target must hold {logits.shape[0]} class indices or have the shape {tuple(logits.shape)}, "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    try:
        return F.one_hot(target.long(), logits.shape[-1]).to(logits.dtype)
    except RuntimeError as reason:  # a check beforehand would make every step wait for the device
        raise BcosError(
            f"target must be in [0, {logits.shape[-1]}) for {logits.shape[-1]} outputs, "
            f"got values from {int(target.min())} to {int(target.max())}"
        ) from reason


class BinaryCrossEntropyLoss(nn.Module):
    """Sum over classes of ``-t ln σ(z) - (1-t) ln(1 - σ(z))``, averaged over all N·K elements.

    Args:
        smoothing: label smoothing s: ``t ← t(1-s) + s/K``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        pos_weight: (K,), factors of the first term: above 1, missing a class costs more than a false alarm.

    Shapes: logits (N, K); targets (N,) class indices, or (N, K) probabilities, one- or multi-hot.

    Source: Böhle et al., TPAMI 2024, section 3.4; smoothing: Szegedy et al., arXiv 1512.00567, section 7.
    """

    pos_weight: Tensor | None

    def __init__(
        self, smoothing: float = 0.0, reduction: Reduction = "mean", *, pos_weight: Tensor | None = None
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise BcosError(f"smoothing must be in [0, 1), got {smoothing}")
        self.smoothing = smoothing
        self.reduction: Reduction = reduction
        self.register_buffer("pos_weight", pos_weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss."""
        dense = dense_targets(logits, target)
        if self.smoothing:
            dense = dense * (1 - self.smoothing) + self.smoothing / logits.shape[-1]
        return _cross_entropy(logits, dense, self.reduction, self.pos_weight)


class UniformOffLabelsBCELoss(nn.Module):
    """Binary cross-entropy whose targets are at least ``1/K``: the off-labels are uniform instead of zero.

    Args:
        off_label: lower bound of every target; None for 1/K.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        pos_weight: (K,), as of :class:`BinaryCrossEntropyLoss`.

    Shapes: logits (N, K); targets (N,) class indices, or (N, K) probabilities, one- or multi-hot.

    >>> import torch
    >>> loss = UniformOffLabelsBCELoss()
    >>> z, t = torch.zeros(1, 5), torch.tensor([3])
    >>> bool(torch.isclose(loss(z, t), torch.tensor(2.0).log()))  # at z = 0 every target costs ln 2
    True

    Source: Böhle et al., TPAMI 2024, section 4 (ImageNet training).
    """

    pos_weight: Tensor | None

    def __init__(
        self, off_label: float | None = None, reduction: Reduction = "mean", *, pos_weight: Tensor | None = None
    ) -> None:
        super().__init__()
        if off_label is not None and not 0 <= off_label <= 1:
            raise BcosError(f"off_label must be in [0, 1], got {off_label}; use None for 1/K")
        self.off_label = off_label
        self.reduction: Reduction = reduction
        self.register_buffer("pos_weight", pos_weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss."""
        off_label = 1 / logits.shape[-1] if self.off_label is None else self.off_label
        dense = dense_targets(logits, target).clamp(min=off_label)
        return _cross_entropy(logits, dense, self.reduction, self.pos_weight)


def _cross_entropy(logits: Tensor, dense: Tensor, reduction: Reduction, pos_weight: Tensor | None) -> Tensor:
    weight = None if pos_weight is None else pos_weight.to(logits)
    return F.binary_cross_entropy_with_logits(logits, dense, reduction=reduction, pos_weight=weight)
