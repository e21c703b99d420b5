"""Backward passes of linear operations, written with forward operations.

The gradient of a linear operation by its input is its transpose: ``<g, L x> = <Lᵀ g, x>``. ONNX and the core
operators of PyTorch have the operations, but not their transposes. Here each is made of what they have:
convolutions of transposed convolutions, selections of scatterings, and whatever works along one axis at a time
(average pooling, interpolation, padding) of products with the matrix of each axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
_BESIDE = 2
"""With 1, PyTorch's antialiased interpolation gives wrong values."""

ADJOINTS: dict[Any, Callable[..., Any]] = {}
"""What is recorded instead of a backward operator of ATen."""


def _adjoint(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ADJOINTS.update({getattr(aten, name).default: function for name in names})
        return function

    return register


@_adjoint("convolution_backward")
def convolution_backward(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    _bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """Gradient of a convolution by its input: the transposed convolution; and of that one, the convolution."""
    if output_mask[1] or output_mask[2]:  # weights that depend on the input
        return NotImplemented
    after = [0] * len(stride)
    if not transposed:
        sizes = zip(input.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        after = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in sizes]
    options = (stride, padding, dilation, not transposed, after, groups)
    return aten.convolution.default(gradient, weight, None, *options), None, None


@_adjoint("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward")
def max_pool_backward(gradient: Tensor, input: Tensor, *options: Any) -> Tensor:
    """Each value goes to the place it was taken from; the indices (last option) count within a channel."""
    *window, indices = options
    n_dims = len(window[0]) if window else 2  # adaptive pooling has no window
    flat = torch.zeros_like(input).flatten(-n_dims)
    return flat.scatter_add(-1, indices.flatten(-n_dims), gradient.flatten(-n_dims)).reshape(input.shape)


@_adjoint("avg_pool2d_backward", "avg_pool3d_backward")
def avg_pool_backward(
    gradient: Tensor,
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Any:
    """Transpose of average pooling, whose divisors are products of counts along each axis."""
    pool = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[len(kernel_size)]
    divisor = None if divisor_override is None else 1

    def along(axis: int) -> list[Any]:
        window = ((kernel_size, 1), (stride or kernel_size, 1), (padding, 0))
        return [*(_only(axis, *values) for values in window), ceil_mode, count_include_pad, divisor]

    scaled = gradient if divisor_override is None else gradient / divisor_override
    return _along_axes(scaled, input.shape, len(kernel_size), pool, along)


@_adjoint("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward")
def adaptive_avg_pool_backward(gradient: Tensor, input: Tensor) -> Any:
    """Transpose of average pooling to a size."""
    n_dims = input.ndim - 2
    pool = {2: aten._adaptive_avg_pool2d.default, 3: aten._adaptive_avg_pool3d.default}[n_dims]
    return _along_axes(gradient, input.shape, n_dims, pool, lambda axis: [_only(axis, gradient.shape[2:], _BESIDE)])


def _register_resampling(name: str, n_dims: int) -> None:
    forward = getattr(aten, name).default
    n_flags = 0 if "nearest" in name else 1

    @_adjoint(f"{name}_backward")
    def resampling_backward(
        gradient: Tensor, output_size: Sequence[int], input_size: Sequence[int], *options: Any
    ) -> Any:
        """Transpose of interpolation.

        The options are align_corners, except for nearest, and a scale for each axis; trailing ones that are None are
        not passed.
        """
        flags, scales = options[:n_flags], [*options[n_flags:], *[None] * n_dims][:n_dims]

        def along(axis: int) -> list[Any]:
            return [_only(axis, output_size, _BESIDE), *flags, *_only(axis, scales, None)]

        return _along_axes(gradient, input_size, n_dims, forward, along)


for _name, _n_dims in {
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "upsample_trilinear3d": 3,
    "upsample_bicubic2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "_upsample_bicubic2d_aa": 2,
    **{f"{kind}{n}d": n for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)},
}.items():
    _register_resampling(_name, _n_dims)


def _register_padding(name: str, n_dims: int) -> None:
    forward = getattr(aten, name).default

    @_adjoint(f"{name}_backward")
    def padding_backward(gradient: Tensor, input: Tensor, padding: Sequence[int]) -> Any:
        """Transpose of padding by reflection or repetition; the padding has the last axis first."""

        def along(axis: int) -> list[Any]:
            first = 2 * (n_dims - 1 - axis)
            return [[p if first <= i < first + 2 else 0 for i, p in enumerate(padding)]]

        return _along_axes(gradient, input.shape, n_dims, forward, along)


for _n_dims in (1, 2, 3):
    _register_padding(f"reflection_pad{_n_dims}d", _n_dims)
    _register_padding(f"replication_pad{_n_dims}d", _n_dims)


def _only(axis: int, values: Sequence[Any], neutral: Any) -> list[Any]:
    """`values` along one axis, and the neutral one along all others."""
    return [value if i == axis else neutral for i, value in enumerate(values)]


def _along_axes(
    gradient: Tensor,
    input_size: Sequence[int],
    n_dims: int,
    forward: Callable[..., Tensor],
    along: Callable[[int], list[Any]],
) -> Any:
    """Transpose (N, C, *spatial) of an operation that is a matrix along each of the last `n_dims` axes.

    Args:
        gradient: (N, C, *spatial_out)
        input_size: N, C, *spatial
        n_dims: number of spatial axes.
        forward: the operation.
        along: its arguments to work along one of the axes alone, where the others have size `_BESIDE`.
    """
    if gradient.ndim != n_dims + 2:  # without a batch
        return NotImplemented
    for axis, size in enumerate(input_size[2:]):
        identity = torch.eye(size, dtype=gradient.dtype, device=gradient.device)
        shape = _only(axis, [size] * n_dims, 1)
        wide = identity.reshape(size, 1, *shape).expand(size, 1, *_only(axis, [size] * n_dims, _BESIDE))
        matrix = forward(wide.contiguous(), *along(axis)).movedim(axis + 2, 1).flatten(2)[..., 0]  # (size, size_out)
        gradient = (gradient.movedim(axis + 2, -1) @ matrix.T).movedim(-1, axis + 2)
    return gradient
