"""The metric of the package."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bcos_explain.explainers import Explainer, attribute
from bcos_explain.metrics import MetricResult


def eccentricity(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
) -> MetricResult:
    """Distance of the centre of mass of the absolute map from the centre of the image, in image sides.

    Args:
        images: (N, C, H, W), 8-bit or floats.
        encode: from images to the network's input.
        batch_size: images explained at once; None for all.

    Returns:
        One score an image; NaN where the map is zero.
    """
    device = next(model.parameters()).device
    x = images.to(device) if encode is None else encode(images.to(device))
    mass = attribute(explainer, model, x, batch_size=batch_size).abs().double()  # (N, H, W)
    rows, columns = (torch.linspace(-0.5, 0.5, side, dtype=mass.dtype, device=device) for side in mass.shape[1:])
    total = mass.sum((1, 2))
    across, down = (mass.sum(1) @ columns) / total, (mass.sum(2) @ rows) / total
    return MetricResult(scores=torch.hypot(across, down).cpu())
