"""The loss of the package."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from bcos_cli.train.losses import LossOptions
from bcos_core import BcosError

GAMMA = 2.0


def focal(options: LossOptions) -> nn.Module:
    """Build the loss of a recipe; options that it cannot honour are refused, not dropped."""
    if options.label_smoothing or options.class_weights is not None:
        raise BcosError("focal takes neither train.label_smoothing nor train.class_weights; leave them out")
    return Focal()


class Focal(nn.Module):
    """``(1 - p)^γ · BCE`` of every class, p the probability of what is true (Lin et al., 2017, arXiv 1708.02002)."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, K) and targets, (N,) or (N, K)."""
        wanted = one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        loss = binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
        return ((1 - (-loss).exp()) ** GAMMA * loss).mean()
