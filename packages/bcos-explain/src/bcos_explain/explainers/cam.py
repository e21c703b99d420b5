"""Class activation mapping: Grad-CAM and Layer-CAM."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.layers import find_layer, layer_name, layer_outputs, shared_copy
from bcos_explain.explainers.contract import Target, as_columns, class_indices, differentiable, like_target
from bcos_explain.explainers.feature_map import as_feature_map, last_feature_layer
from bcos_explain.explainers.gradient import target_gradients


@dataclass(frozen=True, kw_only=True)
class GradCam:
    """``relu(Σ_c α_c A_c)``, upsampled bilinearly, with ``α_c`` the mean over positions of ``∂f_k/∂A_c``.

    A are the feature maps (N, C, h, w) of one layer. Outputs with channels last and tokens (N, T, C) of
    transformers are arranged as such maps; tokens in front of those of the patches (class, registers) are
    left out. The same as Captum's ``LayerGradCam`` with ReLU, which knows convolutions only.

    Args:
        layer: name of the submodule; None for the last with a feature map before the classifier, in order of
            execution (see :func:`bcos_explain.explainers.feature_map.last_feature_layer`): the last stage of
            a convolutional network, the norm before the last attention of a transformer with a class token.

    Returns (N, [T,] H, W), non-negative; zero where nothing speaks for the class.

    Raises:
        BcosError: an unknown layer, one whose output is not a feature map, or one that the output does not
            depend on.

    Source: Selvaraju et al., *Grad-CAM*, ICCV 2017, equations 1 and 2.
    """

    several_targets: ClassVar[bool] = True
    layer: str | None = None

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            maps, slopes, indices = maps_and_slopes(model, leaf, target, self.layer, "Grad-CAM")
            cam = weighted_sum(slopes.mean((3, 4), keepdim=True), maps)
            return like_target(upsampled(cam, x), indices)


@dataclass(frozen=True, kw_only=True)
class LayerCam:
    """``relu(Σ_c relu(∂f_k/∂A_c) · A_c)``, upsampled bilinearly: each position has its own weights.

    Args:
        layer: as for :class:`bcos_explain.explainers.GradCam`; earlier layers give finer maps.

    Returns (N, [T,] H, W), non-negative; zero where nothing speaks for the class.

    Raises:
        BcosError: as :class:`bcos_explain.explainers.GradCam`.

    Source: Jiang et al., *LayerCAM*, IEEE TIP 2021, equations 5 and 6.
    """

    several_targets: ClassVar[bool] = True
    layer: str | None = None

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            maps, slopes, indices = maps_and_slopes(model, leaf, target, self.layer, "Layer-CAM")
            return like_target(upsampled(weighted_sum(slopes.relu(), maps), x), indices)


def maps_and_slopes(
    model: nn.Module, x: Tensor, target: Target, layer: str | None, method: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Feature maps A (N, c, h, w) of a layer, ``∂f_k/∂A`` (N, T, c, h, w) and the classes, in one forward pass.

    The input requires a gradient; `method` is named in messages.

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
    indices = class_indices(model, logits, target)
    size = (int(x.shape[-2]), int(x.shape[-1]))
    if len(output) != len(x):
        raise BcosError(f"{method} needs one output of layer {name!r} for each of {len(x)} inputs, got {len(output)}")
    maps = as_feature_map(output.detach(), *size, module)
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
    """``relu(Σ_c w_c A_c)``, (N, T, h, w), of weights (N, T, c, h or 1, w or 1) and maps (N, c, h, w)."""
    return torch.stack([(w * maps).sum(1).relu() for w in weights.unbind(1)], 1)
