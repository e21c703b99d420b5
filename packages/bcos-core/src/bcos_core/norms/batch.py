"""Norms whose statistics run over the batch, with running estimates for evaluation: Batch and All."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core.fused_ops import divide_by_batch_std, has_batch_statistics, is_fusible
from bcos_core.mode_state import is_explaining
from bcos_core.norms.base import Norm, apply_affine, variance
from bcos_core.one_call import as_one_call


class RunningNorm(Norm):
    """Normalise with the statistics of the batch when training, with their running estimates in eval mode.

    Args:
        num_features: channels C of the input.
        eps: added to the variance.
        momentum: weight of a new batch in the running estimates; None for their plain average.
        affine: learn a weight.
        bias: learn a bias too.
        track_running_stats: keep running estimates; without them every batch is normalised by itself.

    Shapes: (N, C, *spatial) → the same.

    Raises:
        BcosError: an input of fewer than 2 dimensions or another number of channels.

    Running variances are biased for the uncentred norms (as in the paper's code) and unbiased for the centred
    ones (as in PyTorch).
    """

    per_channel: ClassVar[bool]
    centered: ClassVar[bool]
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        bias: bool = False,
        track_running_stats: bool = True,
    ) -> None:
        size = num_features if self.per_channel else 1
        super().__init__(size, eps, affine, bias)
        self.num_features = num_features
        self.momentum = momentum
        self.register_buffer("running_var", torch.ones(size) if track_running_stats else None)
        self.register_buffer("running_mean", torch.zeros(size) if track_running_stats and self.centered else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)

    @property
    def folds(self) -> bool:
        """Whether it only multiplies each channel by a constant (:func:`bcos_core.folded`)."""
        fixed = not self.training and self.running_var is not None
        return fixed and self.per_channel and not self.centered and self.bias is None

    def fixed_scale(self) -> Tensor:
        """Return the factor of each channel in eval mode, ``weight / sqrt(running_var + eps)``."""
        assert self.running_var is not None
        return _scale(self.running_var, self.weight, self.eps)

    def without_scale(self) -> nn.Module:
        """What is left of the norm once its scale stands elsewhere."""
        return nn.Identity()

    def reset_running_stats(self) -> None:
        """Forget all batches: running means become 0, running variances 1."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.fill_(value)

    def reset_parameters(self) -> None:
        """Make the weight 1 and the bias 0, and forget all batches."""
        super().reset_parameters()
        self.reset_running_stats()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, and in train mode update the running estimates."""
        self.check_channels(x, self.num_features)
        flat = x if self.per_channel else x.flatten(1).unsqueeze(1)  # All: (N, 1, C·spatial)
        use_batch = self.training or self.running_var is None
        momentum = self._count_batch()
        if self.centered:
            y = F.batch_norm(
                flat, self.running_mean, self.running_var, self.weight, self.bias, use_batch, momentum, self.eps
            )
        else:
            y = self._uncentered(flat, use_batch, momentum)
        return y if self.per_channel else y.reshape(x.shape)

    def _uncentered(self, x: Tensor, use_batch: bool, momentum: float) -> Tensor:
        if not use_batch:
            assert self.running_var is not None
            return apply_affine(_scaled(x, self.running_var, self.weight, self.eps), None, self.bias)
        fusible = self.weight is not None and is_fusible(x, self.weight) and has_batch_statistics(x)
        if fusible and not is_explaining():
            assert self.weight is not None
            y, var = divide_by_batch_std(x, self.weight, self.eps)
            self._track(var, momentum)
            return apply_affine(y, None, self.bias)
        var = variance(x, (0, *range(2, x.ndim)))
        self._track(var, momentum)
        # One factor: with two, and average pooling behind, PyTorch 2.15 compiles gradients in bfloat16 to NaN on CPUs
        scale = _scale(var.flatten(), self.weight, self.eps).reshape(var.shape)
        return apply_affine((x * scale).to(x.dtype), None, self.bias)

    def _track(self, var: Tensor, momentum: float) -> None:
        """Move the running estimate towards the variance of this batch."""
        if self.training and self.running_var is not None:
            with torch.no_grad():
                self.running_var.lerp_(var.detach().flatten().to(self.running_var.dtype), momentum)

    def _count_batch(self) -> float:
        """Weight of this batch in the running estimates."""
        if not self.training or self.num_batches_tracked is None:
            return 0.0 if self.momentum is None else self.momentum
        self.num_batches_tracked.add_(1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def extra_repr(self) -> str:
        """Show sizes and parameters."""
        return f"{self.num_features}, momentum={self.momentum}, {super().extra_repr()}"


def _scale(var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    scale = (var + eps).rsqrt()
    return scale if weight is None else scale * weight


@as_one_call
def _scaled(x: Tensor, var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x · weight / sqrt(var + eps)`` for each channel, with a variance that does not depend on x."""
    return x * _scale(var, weight, eps).to(x.dtype).reshape([1, -1] + [1] * (x.ndim - 2))


class BatchNorm2d(RunningNorm):
    """Batch norm: mean and variance over N and space, for each channel (Ioffe and Szegedy, 2015)."""

    per_channel = True
    centered = True


class BatchNormUncentered2d(RunningNorm):
    """Batch norm that does not subtract the mean: the default norm of B-cos CNNs."""

    per_channel = True
    centered = False


class AllNorm2d(RunningNorm):
    """One mean and one variance over everything: N, channels and space."""

    per_channel = False
    centered = True


class AllNormUncentered2d(RunningNorm):
    """One variance over everything; the mean is not subtracted."""

    per_channel = False
    centered = False


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether `module` would now normalise with statistics of the batch, mixing its images."""
    if isinstance(module, RunningNorm | nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_var is None
    return False
