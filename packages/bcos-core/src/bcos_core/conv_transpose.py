"""The B-cos counterparts of :class:`torch.nn.ConvTranspose1d`, ``ConvTranspose2d`` and ``ConvTranspose3d``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bcos_core import functional
from bcos_core.conv import BcosConv
from bcos_core.functional import Padding


class BcosConvTranspose(BcosConv):
    """B-cos transform of the inputs that reach each output of a transposed convolution.

    ``y_o(p) = |cos(x_p, ŵ_o)|^(B-1) · ŵ_oᵀ x_p`` with ``x_p`` the inputs that the kernel carries to position p, and
    zeros where it carries none. The weight has unit norm over the channels of a group and the whole kernel: with a
    stride above 1 a part of it reaches a position, and ``|cos|`` stays below the norm of that part.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: one integer, or one for each spatial dimension; so are the next three and dilation.
        stride: step between the places of inputs in the output.
        padding: rows cut off on both sides of the output.
        output_padding: rows appended at the end of the output.
        groups: of channels, each with kernels (and norms) of its own.
        dilation: step inside a kernel.
        b: exponent B ≥ 1.
        max_out: units per output channel, of which the largest ``ŵᵀx`` counts; 1 for no MaxOut.
        normalize_weight: use ŵ; False uses w, so that a pretrained layer is unchanged at B = 1.
        bias: add a learned bias, which B-cos networks do without (converted ones may start with it).
        device: of the weight.
        dtype: of the weight.

    Shapes: (N, in_channels, *spatial) → (N, out_channels, *spatial_out), sizes and weight as in PyTorch's layer.

    Raises:
        BcosError: invalid sizes, groups, paddings, B or max_out.

    Source: Böhle et al., TPAMI 2024, equation 3, for the linear map of :class:`torch.nn.ConvTranspose2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
        *,
        b: float = 2.0,
        max_out: int = 1,
        normalize_weight: bool = True,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            b=b,
            max_out=max_out,
            normalize_weight=normalize_weight,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        functional.expand(padding, self.n_dims, "padding")  # refuse "same"
        self.output_padding = functional.resolve_output_padding(output_padding, self.stride, self.dilation)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels * self.max_out // self.groups, *self.kernel_size)

    def transform(self, x: Tensor, weight: Tensor, padding: Padding) -> Tensor:
        """:meth:`forward` with a weight and padding that a subclass has computed."""
        assert not isinstance(padding, str)
        y = functional.bcos_conv_transpose(
            x,
            weight,
            self.stride,
            padding,
            self.output_padding,
            self.groups,
            self.dilation,
            b=self.b,
            max_out=self.max_out,
            normalize_weight=self.normalize_weight,
        )
        return y if self.bias is None else y + self.bias.reshape(-1, *[1] * self.n_dims)

    def extra_repr(self) -> str:
        """Sizes, B, and what differs from the defaults."""
        more = f", output_padding={self.output_padding}" if any(self.output_padding) else ""
        return super().extra_repr() + more


class BcosConvTranspose1d(BcosConvTranspose):
    """B-cos transposed convolution of sequences (N, C, L)."""

    n_dims = 1


class BcosConvTranspose2d(BcosConvTranspose):
    """B-cos transposed convolution of images (N, C, H, W).

    >>> import torch
    >>> layer = BcosConvTranspose2d(16, 6, kernel_size=4, stride=2, padding=1)
    >>> layer(torch.rand(1, 16, 8, 8)).shape
    torch.Size([1, 6, 16, 16])
    """

    n_dims = 2


class BcosConvTranspose3d(BcosConvTranspose):
    """B-cos transposed convolution of volumes (N, C, D, H, W)."""

    n_dims = 3


for _layer in (BcosConvTranspose1d, BcosConvTranspose2d, BcosConvTranspose3d):
    _layer.__doc__ = f"{_layer.__doc__}\n{(BcosConvTranspose.__doc__ or '').partition(chr(10))[2]}"
del _layer
