"""The B-cos counterparts of :class:`torch.nn.ConvTranspose1d`, ``ConvTranspose2d`` and ``ConvTranspose3d``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bcos_core import functional
from bcos_core.conv import BcosConv
from bcos_core.errors import BcosError
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

    folds = False

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

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Transform (N, in_channels, *spatial), or one sample without N.

        `output_size`, of which the last numbers are those of the spatial dimensions, replaces the output padding by the
        one that gives this size.
        """
        more = None if output_size is None else self._padding_to(x, output_size)
        return self.transform(x, self.weight, self.padding, more)

    def _padding_to(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        functional.check_channels(type(self).__name__, self.n_dims, x, self.in_channels)
        given, n_dims = tuple(output_size), self.n_dims
        least = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                x.shape[-n_dims:],
                self.stride,
                functional.expand(self.padding, n_dims, "padding"),  # type: ignore[arg-type] # reason: no "same" here
                self.dilation,
                self.kernel_size,
                strict=True,
            )
        ]
        more = tuple(size - smallest for size, smallest in zip(given[-n_dims:], least, strict=False))
        if len(given) not in (n_dims, x.ndim) or not all(0 <= m < s for m, s in zip(more, self.stride, strict=True)):
            most = [smallest + stride - 1 for smallest, stride in zip(least, self.stride, strict=True)]
            raise BcosError(
                f"output_size must be {n_dims} numbers, or {x.ndim} with those of the other dimensions, from {least} "
                f"to {most} for an input of shape {tuple(x.shape)}, got {given}"
            )
        return more

    def transform(
        self, x: Tensor, weight: Tensor, padding: Padding, output_padding: tuple[int, ...] | None = None
    ) -> Tensor:
        """:meth:`forward` with a weight and paddings that a subclass has computed."""
        assert not isinstance(padding, str)
        y = functional.bcos_conv_transpose(
            x,
            weight,
            self.stride,
            padding,
            self.output_padding if output_padding is None else output_padding,
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
