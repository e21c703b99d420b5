"""B-cos layers that take over the weights of other layers."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import (
    BcosConv1d,
    BcosConv2d,
    BcosConv3d,
    BcosConvTranspose1d,
    BcosConvTranspose2d,
    BcosConvTranspose3d,
    BcosLinear,
)
from bcos_core.conv import BcosConv
from bcos_core.norms import BatchNormUncentered2d
from bcos_models.conversion import ConversionOptions
from bcos_models.layers import blur_pool, low_pass

_BLURRED = (nn.Conv2d, BcosConv2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVS: dict[type[nn.modules.conv._ConvNd], type[BcosConv]] = {
    nn.Conv1d: BcosConv1d,
    nn.Conv2d: BcosConv2d,
    nn.Conv3d: BcosConv3d,
    nn.ConvTranspose1d: BcosConvTranspose1d,
    nn.ConvTranspose2d: BcosConvTranspose2d,
    nn.ConvTranspose3d: BcosConvTranspose3d,
}


def take_over(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give `new` the parameters and buffers that both have, and the mode; sharing them, not copying."""
    for name in {**new._parameters, **new._buffers}:
        source = getattr(old, name, None)
        if isinstance(source, Tensor) and getattr(new, name) is not None:
            setattr(new, name, source)
    return new.train(old.training)


def bcos_linear(old: nn.Linear, options: ConversionOptions) -> nn.Module:
    """B-cos layer with the weights of a linear one."""
    new = BcosLinear(
        old.in_features,
        old.out_features,
        b=options.b,
        normalize_weight=options.unit_norm,
        bias=options.keep_bias and old.bias is not None,
        device="meta",
    )
    return take_over(new, old)


def conv_arguments(old: nn.modules.conv._ConvNd, options: ConversionOptions) -> dict[str, Any]:
    """Arguments of a B-cos convolution of the same geometry."""
    own = "output_padding" if isinstance(old, TRANSPOSED) else "padding_mode"
    names = f"in_channels out_channels kernel_size stride padding dilation groups {own}".split()
    geometry = {name: getattr(old, name) for name in names}
    bias = options.keep_bias and old.bias is not None
    return {**geometry, "b": options.b, "normalize_weight": options.unit_norm, "bias": bias, "device": "meta"}


def bcos_conv(old: nn.modules.conv._ConvNd, options: ConversionOptions) -> nn.Module | None:
    """B-cos convolution, or transposed convolution, with the weights of a plain one; None if it computes another."""
    for plain, kind in _CONVS.items():
        if isinstance(old, plain) and type(old).forward is plain.forward:
            return take_over(kind(**conv_arguments(old, options)), old)
    return None


class BlurredInput(nn.Module):
    """A strided convolution behind a low-pass filter, so that its stride leaves no grid in explanations.

    The filter is :func:`bcos_models.layers.low_pass`. It stands before the convolution, and not behind one that runs at
    every position: as cheap, and the same where the convolution is depthwise and linear.
    """

    def __init__(self, conv: nn.Module, stride: int) -> None:
        super().__init__()
        weight: Any = conv.weight
        self.blur = low_pass(stride).to(weight.device, weight.dtype)
        self.conv = conv
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Filter, then transform."""
        y: Tensor = self.conv(self.blur(x))
        return y


def blurred_input(conv: Any) -> nn.Module | None:
    """Put a low-pass filter before a convolution; None where it has no stride, or two different ones."""
    if not isinstance(conv, _BLURRED) or isinstance(conv, TRANSPOSED) or len(set(conv.stride)) != 1:
        return None
    return None if conv.stride[0] == 1 else BlurredInput(conv, conv.stride[0])


def without_blur(layer: nn.Module) -> nn.Module:
    """Return the convolution behind a low-pass filter, or the layer itself."""
    return layer.conv if isinstance(layer, BlurredInput) else layer


class SamePaddedBcosConv2d(BcosConv2d):
    """B-cos convolution that pads as TensorFlow's ``"SAME"`` does, by the size of its input (timm's ``Conv2dSame``)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then transform."""
        return self.transform(_padded(self, x), self.weight, 0)


def _padded(conv: BcosConv, x: Tensor) -> Tensor:
    from timm.layers import pad_same  # type: ignore[attr-defined] # reason: timm exports implicitly

    padded: Tensor = pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
    return padded


class StandardizedBcosConv2d(BcosConv2d):
    """B-cos convolution whose kernels are standardised: ``gain · scale · (w - mean) / sqrt(var + eps)``.

    Args:
        gain: (out_channels, 1, 1, 1), learned; None for 1.
        scale: a constant.

    Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019;
    Brock et al., "Characterizing signal propagation", 2021 (gain and scale).
    """

    folds = False

    def __init__(self, *, gain: Tensor | None, scale: float, eps: float, same: bool, **options: Any) -> None:
        super().__init__(**options)
        self.gain = gain
        self.scale = scale
        self.eps = eps
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        """Standardise the kernels, then transform."""
        x, padding = (_padded(self, x), 0) if self.same else (x, self.padding)
        return self.transform(x, self.standardized(), padding)

    def standardized(self) -> Tensor:
        """Kernels as they are used."""
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = None if self.gain is None else (self.gain * self.scale).view(-1)
        return F.batch_norm(rows, None, None, gain, None, True, 0.0, self.eps).reshape_as(self.weight)


class UncenteredBatchNormAct(BatchNormUncentered2d):
    """Uncentred batch norm, then ``drop`` and ``act``, as timm's ``BatchNormAct2d`` has them."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, and activate."""
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y

    def without_scale(self) -> nn.Module:
        """Dropout and activation."""
        return nn.Sequential(self.drop, self.act)


def uncentered(old: Any, options: ConversionOptions) -> nn.Module:
    """Uncentred batch norm with the weight and the running variance of a centred one.

    Where biases are kept, its bias is ``bias - weight · mean / sqrt(var + eps)``, with which it computes the same.
    """
    has_act = hasattr(old, "act") and hasattr(old, "drop")
    new = (UncenteredBatchNormAct if has_act else BatchNormUncentered2d)(
        old.num_features,
        eps=old.eps,
        momentum=old.momentum,
        affine=old.affine,
        track_running_stats=old.track_running_stats,
    )
    new.weight = old.weight
    if options.keep_bias:
        shift = -old.running_mean * (old.running_var + old.eps).rsqrt()
        shift = shift if old.weight is None else shift * old.weight.detach()
        learned = old.weight is None or old.weight.requires_grad
        new.bias = nn.Parameter(shift if old.bias is None else old.bias.detach() + shift, requires_grad=learned)
    for name in ("running_var", "num_batches_tracked"):
        setattr(new, name, getattr(old, name))
    if isinstance(new, UncenteredBatchNormAct):
        new.drop, new.act = old.drop, old.act
    return new.train(old.training)


def blurred_pool(old: Any) -> nn.Module | None:
    """Low-pass filter in the place of max pooling with a stride, of the same output size; None for other pooling.

    That of 2×2 pixels is no loss: average pooling, which it becomes, filters as well.
    """
    if not isinstance(old, nn.MaxPool2d) or type(old).forward is not nn.MaxPool2d.forward or old.return_indices:
        return None
    kernel, stride, padding, dilation = (
        set(v) if isinstance(v, tuple) else {v} for v in (old.kernel_size, old.stride, old.padding, old.dilation)
    )
    if old.ceil_mode or dilation != {1} or stride == {1} or not len(kernel) == len(stride) == len(padding) == 1:
        return None
    return blur_pool(0, stride.pop()) if kernel.pop() == 2 * padding.pop() + 1 else None


def average_pool(old: Any) -> nn.Module | None:
    """Average pooling of the same geometry; None where there is none."""
    dimensions = _dimensions(old)
    if isinstance(old, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d):
        kinds: Any = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
        return kinds[dimensions - 1](old.output_size)  # type: ignore[no-any-return] # reason: a layer
    dilation: Sequence[int] = old.dilation if isinstance(old.dilation, tuple) else (old.dilation,)
    if any(d != 1 for d in dilation) or old.return_indices:
        return None
    if type(old).__name__ == "MaxPool2dSame":
        from timm.layers import AvgPool2dSame  # type: ignore[attr-defined] # reason: timm exports implicitly

        same: nn.Module = AvgPool2dSame(old.kernel_size, old.stride, count_include_pad=False)
        return same
    kinds = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    return kinds[dimensions - 1](old.kernel_size, old.stride, old.padding, old.ceil_mode)  # type: ignore[no-any-return] # reason: a layer


def _dimensions(layer: nn.Module) -> int:
    return next(int(kind.__name__[-2]) for kind in type(layer).__mro__ if kind.__name__[-2:] in ("1d", "2d", "3d"))
