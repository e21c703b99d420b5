"""Which layer becomes what: our own implementation of the hook ``bcos_models_convert_layer``."""

from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from bcos_core.conv import BcosConv
from bcos_core.linear import BcosLinear
from bcos_models.conversion import Conversion, ConversionOptions
from bcos_models.convert import layers
from bcos_models.convert.attention import bcos_attention

WEIGHTED = (nn.Linear, _ConvNd)
"""Layers whose counterpart is a B-cos layer."""
CONVERTED = (BcosLinear, BcosConv)
"""What they become."""
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, _InstanceNorm)
MAX_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
REMOVABLE_BIAS = "has_removable_bias"
"""Attribute of layers with a bias that they would lose without ``keep_bias``."""
_ACTIVATIONS = frozenset(
    "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Hardswish Softplus Hardtanh "  # of PyTorch
    "Swish HardSwish HardMish GELUTanh QuickGELU SwishMe MishMe HardSwishMe HardMishMe".split()  # of timm
)
"""Classes of activations; gates (sigmoids, softmax) are not among them."""


def is_activation(layer: nn.Module) -> bool:
    """Whether a module is an activation function, of PyTorch or timm."""
    return type(layer).__name__ in _ACTIVATIONS and type(layer).__module__.startswith(("torch.nn", "timm."))


def convert_layer(layer: nn.Module, options: ConversionOptions) -> Conversion | None:
    """Make a layer B-cos, as far as the options say; None where there is no rule."""
    if isinstance(layer, WEIGHTED):
        conversion = _weighted(layer, options)
        return conversion if options.antialias == "none" else _blurred(layer, conversion)
    if isinstance(layer, nn.MultiheadAttention):
        return _attention(layer, options)
    if isinstance(layer, NORMS):
        return _norm(layer, options)
    if isinstance(layer, MAX_POOLS) and not options.keep_pooling:
        blur = layers.blurred_pool(layer) if options.antialias == "blurpool" else None
        if blur is not None:
            return Conversion(blur, "max pooling becomes a low-pass filter", is_finished=True)
        pool = layers.average_pool(layer)
        return None if pool is None else Conversion(pool, "max pooling becomes average pooling")
    if is_activation(layer) and not options.keep_activations:
        return Conversion(nn.Identity(), "activation removed", dropped=("weight",))  # of PReLU
    return None


def _weighted(layer: Any, options: ConversionOptions) -> Conversion | None:
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return None  # its weight is computed, by a parametrization
    if is_depthwise(layer) and not options.convert_depthwise:
        return without_bias(layer, options)
    dropped = () if options.keep_bias or layer.bias is None else ("bias",)
    forward = type(layer).forward
    if isinstance(layer, nn.Linear):
        if forward is not nn.Linear.forward and type(layer).__module__ != "timm.layers.linear":
            return None
        return Conversion(mark_bias(layers.bcos_linear(layer, options)), "linear becomes B-cos", dropped)
    conv = layers.bcos_conv(layer, options)
    if conv is not None:
        return Conversion(mark_bias(conv), "convolution becomes B-cos", dropped)
    arguments = layers.conv_arguments(layer, options)
    kind = type(layer).__name__ if type(layer).__module__.startswith("timm.") else ""
    if kind == "Conv2dSame":
        new: nn.Module = layers.SamePaddedBcosConv2d(**arguments | {"padding": 0})
    elif kind in ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"):
        new = layers.StandardizedBcosConv2d(
            gain=getattr(layer, "gain", None),
            scale=getattr(layer, "scale", 1.0),
            eps=layer.eps,
            same=getattr(layer, "same_pad", False),
            **arguments,
        )
    else:
        return None
    return Conversion(mark_bias(layers.take_over(new, layer)), "convolution becomes B-cos", dropped)


def _blurred(layer: Any, conversion: Conversion | None) -> Conversion | None:
    """Put a low-pass filter before a convolution with a stride, converted or linear."""
    if conversion is None and not is_depthwise(layer):
        return None
    made = layers.blurred_input(layer if conversion is None else conversion.module)
    if made is None:
        return conversion
    rule = "low-pass filter before its stride"
    if conversion is None:
        return Conversion(made, rule, is_finished=True)
    return replace(conversion, module=made, rule=f"{conversion.rule}, {rule}", is_finished=True)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a convolution sees each channel by itself."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.in_channels > 1


def mark_bias(layer: nn.Module) -> nn.Module:
    """Mark the bias of a converted layer, if it has kept one, as one that goes in the end."""
    if isinstance(layer.bias, nn.Parameter):
        setattr(layer, REMOVABLE_BIAS, True)
    return layer


def _attention(layer: Any, options: ConversionOptions) -> Conversion | None:
    new: Any = bcos_attention(layer, options) if type(layer).forward is nn.MultiheadAttention.forward else None
    if new is None:
        return None
    mark_bias(new.in_proj)
    mark_bias(new.out_proj)
    biases = () if options.keep_bias else ("in_proj_bias", "out_proj.bias")
    dropped = tuple(name for name in biases if name in dict(layer.named_parameters()))
    return Conversion(new, "attention's output projection becomes B-cos", dropped, is_finished=True)


def _norm(layer: Any, options: ConversionOptions) -> Conversion | None:
    if options.keep_norms:
        return None
    if isinstance(layer, _BatchNorm):
        if layer.running_var is None:
            return None
        folded = ", its mean folded into its bias" if options.keep_bias else ""
        dropped = ("running_mean", "bias") if layer.bias is not None else ("running_mean",)
        return Conversion(
            mark_bias(layers.uncentered(layer, options)), f"batch norm becomes uncentred{folded}", dropped
        )
    if isinstance(layer, nn.LayerNorm) and prod(layer.normalized_shape) == 1:
        return None  # it is its bias
    return without_bias(layer, options)


def without_bias(layer: Any, options: ConversionOptions) -> Conversion | None:
    """Take the bias off a layer that stays; None if it has none, or it is kept (and marked)."""
    if not isinstance(getattr(layer, "bias", None), Tensor):
        return None
    if options.keep_bias:
        setattr(layer, REMOVABLE_BIAS, True)
        return None
    layer.bias = None
    return Conversion(layer, "bias removed", dropped=("bias",))
