"""Layer-CAM."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bcos_explain.explainers.cam import maps_and_slopes, upsampled, weighted_sum
from bcos_explain.explainers.contract import Target, differentiable, like_target


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
