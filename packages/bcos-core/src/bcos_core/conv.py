"""The B-cos counterparts of :class:`torch.nn.Conv1d`, ``Conv2d`` and ``Conv3d``."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bcos_core import functional
from bcos_core.errors import BcosError
from bcos_core.functional import Padding, PaddingMode


class BcosConv(nn.Module):
    """B-cos transform of patches, in any number of spatial dimensions.

    ``y_o(p) = |cos(x_p, ŵ_o)|^(B-1) · ŵ_oᵀ x_p`` with ``x_p`` the patch under the kernel at position p.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: one integer, or one for each spatial dimension; so are stride, padding and dilation.
        stride: step between patches.
        padding: on both sides, or ``"same"``, ``"valid"``.
        dilation: step inside a patch.
        groups: of channels, each with kernels (and patch norms) of its own.
        b: exponent B ≥ 1.
        max_out: units per output channel, of which the largest ``ŵᵀx`` counts; 1 for no MaxOut.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        normalize_weight: use ŵ; False uses w, so that a pretrained convolution is unchanged at B = 1.
        bias: add a learned bias, which B-cos networks do without (converted ones may start with it).
        device: of the weight.
        dtype: of the weight.

    Shapes: (N, in_channels, *spatial) → (N, out_channels, *spatial_out), sizes as in PyTorch's convolution.

    Raises:
        BcosError: invalid sizes, groups, padding, B or max_out.

    Source: Böhle et al., TPAMI 2024, equations 3 and 9.
    """

    n_dims: ClassVar[int]
    folds: ClassVar[bool] = True
    """Whether the forward pass takes ``weight`` as it is (:func:`bcos_core.folded`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        *,
        b: float = 2.0,
        max_out: int = 1,
        padding_mode: PaddingMode = "zeros",
        normalize_weight: bool = True,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        functional.check_options(b, max_out, normalize_weight)
        if groups < 1 or in_channels < 1 or out_channels < 1 or in_channels % groups or out_channels % groups:
            raise BcosError(
                f"in_channels and out_channels must be positive multiples of groups, "
                f"got {in_channels} and {out_channels} with groups={groups}"
            )
        if padding_mode not in functional.PADDING_MODES:
            raise BcosError(f"padding_mode must be one of {functional.PADDING_MODES}, got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = functional.expand(kernel_size, self.n_dims, "kernel_size")
        self.stride = functional.expand(stride, self.n_dims, "stride")
        self.dilation = functional.expand(dilation, self.n_dims, "dilation")
        if min(*self.kernel_size, *self.stride, *self.dilation) < 1:
            raise BcosError(
                f"kernel_size, stride and dilation must be at least 1, got {kernel_size}, {stride} and {dilation}"
            )
        functional.resolve_padding(padding, self.kernel_size, self.stride, self.dilation)  # fail early
        self.padding = padding
        self.groups = groups
        self.b = b
        self.max_out = max_out
        self.padding_mode: PaddingMode = padding_mode
        self.normalize_weight: bool | None = normalize_weight
        self.weight = nn.Parameter(torch.empty(self._weight_shape(), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels * self.max_out, self.in_channels // self.groups, *self.kernel_size)

    def reset_parameters(self) -> None:
        """Draw the weight as PyTorch's convolutions do; a bias starts at 0."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, in_channels, *spatial), or one sample without N."""
        return self.transform(x, self.weight, self.padding)

    def transform(self, x: Tensor, weight: Tensor, padding: Padding) -> Tensor:
        """:meth:`forward` with a weight and padding that a subclass has computed."""
        conv = (functional.bcos_conv1d, functional.bcos_conv2d, functional.bcos_conv3d)[self.n_dims - 1]
        y = conv(
            x,
            weight,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            b=self.b,
            max_out=self.max_out,
            padding_mode=self.padding_mode,
            normalize_weight=self.normalize_weight,
        )
        return y if self.bias is None else y + self.bias.reshape(-1, *[1] * self.n_dims)

    def extra_repr(self) -> str:
        """Sizes, B, and what differs from the defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, b={self.b:g}"]
        defaults = {"stride": (1,) * self.n_dims, "padding": 0, "dilation": (1,) * self.n_dims, "groups": 1}
        defaults |= {"max_out": 1, "padding_mode": "zeros", "normalize_weight": True}
        parts += [f"{k}={getattr(self, k)!r}" for k, default in defaults.items() if getattr(self, k) != default]
        parts += [] if self.bias is None else ["bias=True"]
        return ", ".join(parts)


class BcosConv1d(BcosConv):
    """B-cos transform of the patches of sequences (N, C, L)."""

    n_dims = 1


class BcosConv2d(BcosConv):
    """B-cos transform of the patches of images (N, C, H, W).

    >>> import torch
    >>> layer = BcosConv2d(6, 16, kernel_size=3, padding=1, stride=2)
    >>> layer(torch.rand(1, 6, 32, 32)).shape
    torch.Size([1, 16, 16, 16])
    """

    n_dims = 2


class BcosConv3d(BcosConv):
    """B-cos transform of the patches of volumes (N, C, D, H, W)."""

    n_dims = 3


for _layer in (BcosConv1d, BcosConv2d, BcosConv3d):
    _layer.__doc__ = f"{_layer.__doc__}\n{(BcosConv.__doc__ or '').partition(chr(10))[2]}"
del _layer
