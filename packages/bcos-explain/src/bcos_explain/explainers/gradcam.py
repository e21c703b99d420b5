"""Grad-CAM."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_explain.explainers.cam import maps_and_slopes, upsampled, weighted_sum
from bcos_explain.explainers.contract import Target, differentiable, like_target


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
