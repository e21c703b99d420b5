"""What the norms share: affine parameters and division by a frozen standard deviation."""

import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.mode_state import freeze
from bcos_core.precision import widened


class Norm(nn.Module):
    """Holds ``weight`` and ``bias`` of `num_parameters` elements, each optional, but no bias without a weight."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_parameters: int, eps: float, affine: bool, bias: bool) -> None:
        super().__init__()
        if num_parameters < 1:
            raise BcosError(f"a norm needs at least 1 feature, got {num_parameters}")
        if bias and not affine:
            raise BcosError("bias=True needs affine=True: a norm has weight and bias, weight only, or neither")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_parameters)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_parameters)) if bias else None

    def reset_parameters(self) -> None:
        """Make the weight 1 and the bias 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Show the parameters there are."""
        kind = "affine" if self.bias is not None else "linear" if self.weight is not None else "plain"
        return f"eps={self.eps:g}, {kind}"

    def check_channels(self, x: Tensor, channels: int) -> None:
        """Refuse an input that does not have so many channels in dimension 1."""
        if x.ndim < 2 or x.shape[1] != channels:
            got = f"{type(self).__name__} got an input of shape {tuple(x.shape)}"
            raise BcosError(f"{got}, needs {channels} channels in dimension 1")


def variance(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Biased variance over `dims`, kept as dimensions of size 1, a constant in explanation mode.

    Half precisions accumulate in float32.
    """
    return widened(freeze(x)).var(dim=dims, correction=0, keepdim=True)


def divide_by_std(x: Tensor, var: Tensor, eps: float) -> Tensor:
    """``x / sqrt(var + eps)``."""
    return (x * (var + eps).rsqrt()).to(x.dtype)


def apply_affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, channel_dim: int = 1) -> Tensor:
    """``x · weight + bias``, both along `channel_dim`."""
    shape = [1] * x.ndim
    shape[channel_dim] = -1
    if weight is not None:
        x = x * weight.to(x.dtype).reshape(shape)
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(shape)
    return x
