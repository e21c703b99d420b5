r"""The B-cos transform as pure functions.

.. math:: \text{B-cos}(x; w) = |\cos(x, \hat w)|^{B-1}\, \hat w^\top x, \qquad \hat w = w / \lVert w \rVert

Source: Böhle et al., *B-cos Alignment for Inherently Interpretable CNNs and Vision Transformers*, TPAMI 2024,
section 3.1 (MaxOut: section 3.3). Inside :func:`bcos_core.explanation_mode` the factor :math:`|\cos|^{B-1}`
is a constant.

Norms and cosines are computed in float32 for half-precision inputs, in the input's own precision otherwise.
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import has_torch_function_unary

from bcos_core.errors import BcosError
from bcos_core.fused_ops import (
    COS_EPS,
    box_sum,
    cosine_factor,
    is_eager,
    scale_by_cosine,
    sum_of_squares,
    window_sum,
    window_sum_formula,
)
from bcos_core.mode_state import freeze, is_explaining
from bcos_core.one_call import as_one_call
from bcos_core.precision import widened
from bcos_core.tape import held

CONV_NORM_EPS = 1e-6
"""Added to the squared norm of a patch."""
LINEAR_NORM_EPS = 1e-12
"""Added to the norm of a vector."""
WEIGHT_NORM_EPS = 1e-12
"""Lower bound of a weight's norm, so that an all-zero weight gives 0, not NaN."""

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: tuple[PaddingMode, ...] = ("zeros", "reflect", "replicate", "circular")
Padding = int | Sequence[int] | Literal["same", "valid"]


@as_one_call
def bcos_linear(
    x: Tensor, weight: Tensor, *, b: float = 2.0, max_out: int = 1, normalize_weight: bool | None = True
) -> Tensor:
    """B-cos transform of vectors.

    Args:
        x: (..., in_features)
        weight: (out_features * max_out, in_features); rows need not have unit norm.
        b: exponent B ≥ 1. With B = 1 the transform is linear.
        max_out: units per output feature, of which the one with the largest ``ŵᵀx`` counts.
        normalize_weight: False gives ``|cos(x, ŵ)|^(B-1) · wᵀx``, ``‖w‖`` times as much, so that a pretrained
            linear layer is unchanged at B = 1 (Arya et al., "B-cosification", NeurIPS 2024); without MaxOut. None
            takes w as it is: ``|wᵀx / ‖x‖|^(B-1) · wᵀx`` (:func:`bcos_core.folded`).

    Returns:
        (..., out_features)

    Raises:
        BcosError: B < 1, max_out < 1 or not a divisor of the number of rows, shapes that do not fit.
    """
    check_options(b, max_out, normalize_weight, rows=weight.shape[0])
    check_features("bcos_linear", x, weight)
    out = _max_out(F.linear(x, normalized_weight(weight, b, normalize_weight)), max_out, dim=-1)
    if b == 1:
        return out
    norm = torch.linalg.vector_norm(widened(freeze(x)), dim=-1, keepdim=True) + LINEAR_NORM_EPS
    return _scale_by_cosine(out, norm, b)


def bcos_conv1d(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    b: float = 2.0,
    max_out: int = 1,
    padding_mode: PaddingMode = "zeros",
    normalize_weight: bool | None = True,
) -> Tensor:
    """B-cos transform of the patches of a sequence (N, C, L); see :func:`bcos_conv2d`."""
    options = (stride, padding, dilation, groups, b, padding_mode, normalize_weight)
    return _bcos_conv(x, weight, 1, *options, max_out=max_out)


def bcos_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    b: float = 2.0,
    max_out: int = 1,
    padding_mode: PaddingMode = "zeros",
    normalize_weight: bool | None = True,
) -> Tensor:
    """B-cos transform of the patches of an image: in ``|cos|^(B-1) · ŵᵀx``, x is the patch under the kernel.

    Args:
        x: (N, C, H, W) or (C, H, W)
        weight: (out_channels * max_out, C / groups, kernel height, kernel width); each of the rows is
            normalised over its last three dimensions.
        stride: as in :func:`torch.nn.functional.conv2d`; so are `padding` (also ``"same"``, ``"valid"``),
            `dilation` and `groups`.
        b: exponent B ≥ 1. With B = 1 the transform is linear.
        max_out: units per output channel, of which the one with the largest ``ŵᵀx`` counts.
        padding_mode: what the border is padded with. Padded values count in the patch's norm.
        normalize_weight: as in :func:`bcos_linear`.

    Returns:
        (N, out_channels, H_out, W_out), or without N.

    Raises:
        BcosError: B < 1, max_out < 1 or not a divisor of the number of rows, shapes that do not fit.
    """
    options = (stride, padding, dilation, groups, b, padding_mode, normalize_weight)
    return _bcos_conv(x, weight, 2, *options, max_out=max_out)


def bcos_conv3d(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    b: float = 2.0,
    max_out: int = 1,
    padding_mode: PaddingMode = "zeros",
    normalize_weight: bool | None = True,
) -> Tensor:
    """B-cos transform of the patches of a volume (N, C, D, H, W); see :func:`bcos_conv2d`."""
    options = (stride, padding, dilation, groups, b, padding_mode, normalize_weight)
    return _bcos_conv(x, weight, 3, *options, max_out=max_out)


def bcos_conv_transpose(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    b: float = 2.0,
    max_out: int = 1,
    normalize_weight: bool | None = True,
) -> Tensor:
    """B-cos transform of the inputs that reach each output of a transposed convolution, in 1, 2 or 3 dimensions.

    In ``|cos|^(B-1) · ŵᵀx``, x holds the inputs that the kernel carries to the output's position, and zeros where
    it carries none: it is the patch under the flipped kernel when the input is spread by the stride, with zeros
    between. So ``‖x‖`` is over those inputs, and ŵ has unit norm over the whole kernel. With a stride above 1 a
    part of the kernel reaches a position, and |cos| stays below the norm of that part.

    Args:
        x: (N, C, *spatial) or (C, *spatial)
        weight: (C, out_channels * max_out / groups, *kernel), as PyTorch's transposed convolutions have it; the
            part of each output channel is normalised over the channels of its group and the kernel.
        stride: as in :func:`torch.nn.functional.conv_transpose2d`; so are `padding`, `output_padding`, `groups`
            and `dilation`.
        b: exponent B ≥ 1. With B = 1 the transform is the transposed convolution with ŵ.
        max_out: units per output channel, of which the one with the largest ``ŵᵀx`` counts.
        normalize_weight: as in :func:`bcos_linear`.

    Returns:
        (N, out_channels, *spatial_out), or without N.

    Raises:
        BcosError: B < 1, max_out < 1 or not a divisor of the weight's channels, shapes that do not fit, an
            output padding that is not below the stride or the dilation.
    """
    n_dims = weight.ndim - 2
    if n_dims not in (1, 2, 3):
        raise BcosError(f"bcos_conv_transpose needs a weight of 3, 4 or 5 dimensions, got {tuple(weight.shape)}")
    check_options(b, max_out, normalize_weight, rows=weight.shape[1])
    check_channels(f"bcos_conv_transpose{n_dims}d", n_dims, x, weight.shape[0])
    if x.ndim == n_dims + 1:
        options = (stride, padding, output_padding, groups, dilation)
        y = bcos_conv_transpose(x[None], weight, *options, b=b, max_out=max_out, normalize_weight=normalize_weight)
        return y[0]
    stride, dilation = expand(stride, n_dims, "stride"), expand(dilation, n_dims, "dilation")
    more = resolve_output_padding(output_padding, stride, dilation)
    placed = (stride, expand(padding, n_dims, "padding"), more, groups, dilation)
    rows = weight.unflatten(0, (groups, -1)).transpose(1, 2)  # (G, channels / G, C / G, *kernel)
    rows = normalized_weight(rows.flatten(0, 1), b, normalize_weight).reshape(rows.shape)
    conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n_dims - 1]
    out = _max_out(conv(x, rows.transpose(1, 2).flatten(0, 1), None, *placed), max_out, dim=1)
    if b == 1:
        return out
    squares = widened(freeze(x)).square().unflatten(1, (groups, -1)).sum(2)  # (N, G, *spatial)
    with torch.autocast(x.device.type, enabled=False):  # which would sum the squares in half precision
        reached = conv(squares, squares.new_ones((groups, 1, *weight.shape[2:])), None, *placed)
    norm = (reached + CONV_NORM_EPS).sqrt().repeat_interleave(out.shape[1] // groups, dim=1)
    return _scale_by_cosine(out, norm, b)


def unit_norm(weight: Tensor) -> Tensor:
    """``ŵ = w / ‖w‖`` for every row: the norm is over all dimensions but the first."""
    normed: Tensor = (widened(weight) / weight_norm(weight)).to(weight.dtype)
    return normed


def normalized_weight(weight: Tensor, b: float, to_unit_norm: bool | None) -> Tensor:
    """The v for which ``|vᵀx / ‖x‖|^(b-1) · vᵀx`` is the transform: ŵ, w divided by ``‖w‖^((b-1)/b)``, or w."""
    if to_unit_norm is None:
        return weight
    if to_unit_norm:
        return unit_norm(weight)
    return weight if b == 1 else (widened(weight) / weight_norm(weight) ** ((b - 1) / b)).to(weight.dtype)


def weight_norm(weight: Tensor) -> Tensor:
    """``‖w‖`` of every row, (rows, 1, ...), in float32 for half precisions; never 0."""
    dims = tuple(range(1, weight.ndim))
    norm: Tensor = torch.linalg.vector_norm(widened(weight), dim=dims, keepdim=True).clamp_min(WEIGHT_NORM_EPS)
    return norm


def patch_norms(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``sqrt(Σ x² + 1e-6)`` over the zero-padded patch under the kernel, for each group of channels.

    Shapes: (N, C, *spatial) → (N, groups, *spatial_out).
    """
    n_dims = len(kernel_size)
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    compiled = torch.compiler.is_compiling()
    squares = widened(grouped).square().sum(2) if compiled else sum_of_squares(grouped, 2)  # (N, G, *spatial)
    if any(before or after for before, after in padding):
        squares = F.pad(squares, _pad_argument(padding))
    if all(size == 1 for size in (*kernel_size, *stride)):
        pass
    elif groups == 1 and all(d == 1 for d in dilation):
        if not compiled and squares.device.type == "cpu":
            return (box_sum(squares, kernel_size, stride) + CONV_NORM_EPS).sqrt()
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n_dims - 1]
        squares = pool(squares, tuple(kernel_size), tuple(stride)) * prod(kernel_size)
    else:  # PyTorch pools many channels up to ten times as slowly as it convolves each with a kernel of ones
        with torch.autocast(x.device.type, enabled=False):  # which would sum the squares in half precision
            squares = (window_sum_formula if compiled else window_sum)(squares, kernel_size, stride, dilation)
    return (squares + CONV_NORM_EPS).sqrt()


def check_exponent(b: float) -> None:
    """Refuse an exponent below 1 (or NaN)."""
    if not isinstance(b, (int, float)) or not b >= 1:
        raise BcosError(f"b must be at least 1, got {b!r}; use b=1 for a linear layer, b=2 is the default")


def check_options(b: float, max_out: int, normalize_weight: bool | None, *, rows: int | None = None) -> None:
    """Refuse an exponent below 1, MaxOut units that do not divide the weight's rows, or whose weights' norms differ."""
    check_exponent(b)
    if max_out < 1:
        raise BcosError(f"max_out must be at least 1, got {max_out}; use 1 for no MaxOut")
    if rows is not None and rows % max_out:
        raise BcosError(
            f"max_out={max_out} does not divide the {rows} rows of the weight; give it out_features * max_out rows"
        )
    if normalize_weight is False and max_out > 1:
        raise BcosError(f"normalize_weight=False needs max_out=1, got {max_out}: unequal norms cannot be compared")


def resolve_padding(
    padding: Padding, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding (before, after) for each spatial dimension; ``"same"``, which needs stride 1, splits as PyTorch does."""
    if isinstance(padding, str):
        if padding == "valid":
            return [(0, 0)] * len(kernel_size)
        if padding != "same":
            raise BcosError(f"padding must be a number, 'same' or 'valid', got {padding!r}")
        if any(s != 1 for s in stride):
            raise BcosError(f"padding='same' needs stride 1, got stride {tuple(stride)}; give the padding as numbers")
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    values = expand(padding, len(kernel_size), "padding")
    if any(p < 0 for p in values):
        raise BcosError(f"padding must not be negative, got {padding}")
    return [(p, p) for p in values]


def resolve_output_padding(
    output_padding: int | Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Rows that a transposed convolution appends, for each dimension; fewer than its stride or its dilation."""
    more = expand(output_padding, len(stride), "output_padding")
    if not all(0 <= p < max(s, d) for p, s, d in zip(more, stride, dilation, strict=True)):
        raise BcosError(
            f"output_padding must be below the stride or the dilation, got {output_padding} with stride "
            f"{tuple(stride)} and dilation {tuple(dilation)}"
        )
    return more


def expand(value: int | Sequence[int], n_dims: int, what: str) -> tuple[int, ...]:
    """One integer for each of `n_dims` spatial dimensions."""
    values = (value,) * n_dims if isinstance(value, int) else tuple(value)
    if len(values) != n_dims:
        raise BcosError(f"{what} must be one integer or {n_dims}, got {value}")
    return values


@as_one_call
def _bcos_conv(
    x: Tensor,
    weight: Tensor,
    n_dims: int,
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
    b: float,
    padding_mode: PaddingMode,
    normalize_weight: bool | None,
    *,
    max_out: int,
) -> Tensor:
    check_options(b, max_out, normalize_weight, rows=weight.shape[0])
    if weight.ndim != n_dims + 2:
        raise BcosError(f"bcos_conv{n_dims}d needs a weight of {n_dims + 2} dimensions, got {tuple(weight.shape)}")
    check_channels(f"bcos_conv{n_dims}d", n_dims, x, weight.shape[1] * groups)
    if x.ndim == n_dims + 1:
        options = (stride, padding, dilation, groups, b, padding_mode, normalize_weight)
        return _bcos_conv(x[None], weight, n_dims, *options, max_out=max_out)[0]
    kernel_size = tuple(weight.shape[2:])
    stride = expand(stride, n_dims, "stride")
    dilation = expand(dilation, n_dims, "dilation")
    pads = resolve_padding(padding, kernel_size, stride, dilation)
    symmetric = all(before == after for before, after in pads)
    if padding_mode != "zeros" or not symmetric:
        mode = "constant" if padding_mode == "zeros" else padding_mode
        x = F.pad(x, _pad_argument(pads), mode=mode)
        pads = [(0, 0)] * n_dims

    conv = (F.conv1d, F.conv2d, F.conv3d)[n_dims - 1]
    used = normalized_weight(weight, b, normalize_weight)
    linear = conv(x, used, None, stride, tuple(p for p, _ in pads), dilation, groups)
    out = _max_out(linear, max_out, dim=1)
    if b == 1:
        return out
    norm = patch_norms(freeze(x), kernel_size, stride, pads, dilation, groups)  # (N, G, *spatial_out)
    if 1 < groups < out.shape[1]:
        norm = norm.repeat_interleave(out.shape[1] // groups, dim=1)
    return _scale_by_cosine(out, norm, b)


def check_features(name: str, x: Tensor, weight: Tensor) -> None:
    """Refuse vectors x (..., in_features) that do not fit a weight (out_features, in_features)."""
    needed = weight.shape[-1]
    if x.ndim < 1 or x.shape[-1] != needed:
        given = x.shape[-1] if x.ndim else 0
        hint = _about_inverse("AddInverse, whose dim is that of the channels,", given, needed)
        raise BcosError(
            f"{name} got an input of shape {tuple(x.shape)}, needs {needed} features in its last dimension{hint}"
        )


def check_channels(name: str, n_dims: int, x: Tensor, needed: int) -> None:
    """Refuse anything but (N, C, *spatial) or (C, *spatial) with `n_dims` spatial dimensions and `needed` channels."""
    if x.ndim not in (n_dims + 1, n_dims + 2):
        raise BcosError(
            f"{name} got an input of shape {tuple(x.shape)}, needs {n_dims + 2} dimensions "
            f"(N, C, *spatial), or {n_dims + 1} for a single sample"
        )
    channels = x.shape[-n_dims - 1]
    if channels != needed:
        encoding = ("AddInverse(dim=-2)", "AddInverse()", "AddInverse(dim=-4)")[n_dims - 1]
        hint = _about_inverse(encoding, channels, needed)
        raise BcosError(f"{name} got {channels} input channels (shape {tuple(x.shape)}), needs {needed}{hint}")


def _about_inverse(encoding: str, given: int, needed: int) -> str:
    """What to do where channels have come without their inverse, or with one that is too many; else nothing."""
    if needed == 2 * given:
        return f"; encode the input with {encoding} first, as model.transform does where a model has one"
    if given == 2 * needed:
        return f"; leave {encoding} out: this layer takes channels without their inverse"
    return ""


def _pad_argument(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Order (before, after) pairs as :func:`torch.nn.functional.pad` wants them: last dimension first."""
    return [p for pair in reversed(pads) for p in pair]


def _max_out(linear: Tensor, max_out: int, dim: int) -> Tensor:
    if max_out == 1:
        return linear
    units = linear.unflatten(dim, (-1, max_out))
    largest: Tensor = units.max(dim=dim if dim < 0 else dim + 1).values
    return largest


def _scale_by_cosine(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """``|linear / norm|^(b-1) · linear``, the factor computed in the precision of `norm`."""
    if is_eager(linear, norm):
        if not is_explaining():
            return scale_by_cosine(linear, norm, b)
        if not has_torch_function_unary(linear):  # no rules to pass through: all of the transform is one call
            return (held(cosine_factor(linear.detach(), norm.detach(), b)) * linear).to(linear.dtype)
    cosine = freeze(linear).to(norm.dtype).abs() / norm
    factor = cosine if b == 2 else (cosine + COS_EPS).pow(b - 1)
    return ((held(factor) if is_explaining() else factor) * linear).to(linear.dtype)
