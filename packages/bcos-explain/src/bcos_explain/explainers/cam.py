"""What class activation mapping has in common: the maps of one layer, and their slopes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.layers import find_layer, layer_name, layer_outputs, shared_copy
from bcos_explain.explainers.contract import Target, as_columns, class_indices
from bcos_explain.explainers.feature_map import as_feature_map, last_feature_layer
from bcos_explain.explainers.target_gradients import target_gradients


def maps_and_slopes(
    model: nn.Module, x: Tensor, target: Target, layer: str | None, method: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Feature maps A of a layer and ``∂f_k/∂A``, in one forward pass.

    Args:
        model: in eval mode.
        x: (N, C, H, W), requires a gradient.
        target: explained classes.
        layer: name of the submodule; None for the last with a feature map before the classifier (see
            :func:`bcos_explain.explainers.feature_map.last_feature_layer`).
        method: for messages.

    Returns:
        Maps (N, c, h, w), slopes (N, T, c, h, w) and the classes (N,) or (N, T).

    Raises:
        BcosError: an unknown layer, one whose output is not a feature map, or one without influence.
    """
    model = shared_copy(model)  # it gets hooks
    module = last_feature_layer(model, x) if layer is None else find_layer(model, layer)
    name = layer_name(model, module)
    outputs, logits = layer_outputs(model, module, x)
    output = outputs[-1]
    if not isinstance(output, Tensor):
        raise BcosError(f"{method} needs a layer whose output is a tensor, got {type(output).__name__}")
    indices = class_indices(logits, target)
    size = (int(x.shape[-2]), int(x.shape[-1]))
    if len(output) != len(x):
        raise BcosError(f"{method} needs one output of layer {name!r} for each of {len(x)} inputs, got {len(output)}")
    maps = as_feature_map(output.detach(), *size)
    if maps is None:
        raise BcosError(
            f"the layer {name!r} gives {tuple(output.shape)} for images of {size[0]}×{size[1]}; "
            f"{method} needs maps (N, C, h, w), (N, h, w, C) or tokens (N, T, C)"
        )
    gradient = target_gradients(logits, as_columns(indices), output)
    slopes = None if gradient is None else as_feature_map(gradient.flatten(0, 1), *size)
    if slopes is None or (layer is not None and output.ndim == 3 and not bool(slopes.any())):
        raise BcosError(
            f"the output does not depend on the maps of layer {name!r}; name an earlier layer with layer='...'"
        )
    return maps, slopes.unflatten(0, (len(x), -1)), indices


def upsampled(cam: Tensor, x: Tensor) -> Tensor:
    """(N, T, h, w) to the size of the image, bilinearly: (N, T, H, W)."""
    return F.interpolate(cam, x.shape[-2:], mode="bilinear", align_corners=False)


def weighted_sum(weights: Tensor, maps: Tensor) -> Tensor:
    """``relu(Σ_c w_c A_c)`` for each target.

    Args:
        weights: (N, T, c, h, w), or with h = w = 1.
        maps: (N, c, h, w).

    Returns:
        (N, T, h, w)
    """
    return torch.stack([(w * maps).sum(1).relu() for w in weights.unbind(1)], 1)
