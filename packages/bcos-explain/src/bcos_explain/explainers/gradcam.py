"""Grad-CAM."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Target, class_scores, differentiable
from bcos_explain.explainers.feature_map import as_feature_map, find_layer, last_feature_layer


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

    Returns (N, H, W), non-negative; zero where nothing speaks for the class.

    Raises:
        BcosError: an unknown layer, one whose output is no feature map, or one that the output does not
            depend on.

    Source: Selvaraju et al., *Grad-CAM*, ICCV 2017, equations 1 and 2.
    """

    exact: ClassVar[bool] = False
    layer: str | None = None

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            layer = last_feature_layer(model, leaf) if self.layer is None else find_layer(model, self.layer)
            output, score = _forward(model, layer, leaf, target)
            (gradient,) = torch.autograd.grad(score.sum(), output, allow_unused=True)
            size = (int(x.shape[-2]), int(x.shape[-1]))
            maps = self._as_maps(output.detach(), size)
            slopes = None if gradient is None else self._as_maps(gradient, size)
            named = self.layer is not None
            if slopes is None or (named and output.ndim == 3 and not bool(slopes.any())):
                raise BcosError(
                    f"the output does not depend on the maps of layer {self._name(model, layer)!r}; "
                    "name an earlier layer with layer='...'"
                )
            cam = (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()  # (N, 1, h, w)
            return F.interpolate(cam, size, mode="bilinear", align_corners=False)[:, 0].clone()

    def _as_maps(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        maps = as_feature_map(output, *size)
        if maps is None:
            raise BcosError(
                f"the layer {self.layer!r} gives {tuple(output.shape)} for images of {size[0]}×{size[1]}; "
                "Grad-CAM needs maps (N, C, h, w), (N, h, w, C) or tokens (N, T, C)"
            )
        return maps

    @staticmethod
    def _name(model: nn.Module, layer: nn.Module) -> str:
        names: list[str] = [name for name, module in model.named_modules() if module is layer]
        return names[0]


def _forward(model: nn.Module, layer: nn.Module, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Output of `layer`, in the graph, and the score (N,) of the target classes."""
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise BcosError(f"Grad-CAM needs a layer whose output is a tensor, got {type(output).__name__}")
        captured[:] = [output]
        return output.clone()  # what follows may change it in place

    handle = layer.register_forward_hook(capture)
    try:
        score = class_scores(model(x), target)
    finally:
        handle.remove()
    if not captured:
        raise BcosError(f"the layer {type(layer).__name__} did not run in the model's forward pass")
    return captured[0], score
