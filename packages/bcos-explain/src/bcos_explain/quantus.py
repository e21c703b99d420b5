"""Explainers of this package for the metrics of Quantus, which need not be installed."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bcos_explain.explainers.contract import Explainer, spatial_map

ExplainFunc = Callable[..., NDArray[np.floating]]


def explain_func(explainer: Explainer, *, channels: bool = False) -> ExplainFunc:
    """Return an ``explain_func`` for Quantus.

    Args:
        explainer: any of :func:`bcos_explain.get_explainer`.
        channels: keep the channels of the attribution, (N, C, H, W), if the explainer tells them apart; else
            they are summed, (N, 1, H, W), which Quantus applies to all channels of the input.

    Returns:
        ``f(model, inputs, targets, *, device=None) -> array``: inputs (N, C, H, W), encoded as the network
        expects them; targets (N,) or one integer; moved to `device`, or where the model is.

    >>> from bcos_explain import get_explainer
    >>> f = explain_func(get_explainer("input_x_gradient"))
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    >>> f(model, np.ones((4, 3, 2, 2), np.float32), np.array([0, 1, 1, 0])).shape
    (4, 1, 2, 2)
    """

    def explain(
        model: nn.Module,
        inputs: NDArray[np.floating],
        targets: NDArray[np.integer] | int,
        *,
        device: str | torch.device | None = None,
    ) -> NDArray[np.floating]:
        parameter = next(model.parameters(), None)
        if device is None and parameter is not None:
            device = parameter.device
        x = torch.as_tensor(np.ascontiguousarray(inputs), device=device)
        if parameter is not None:
            x = x.to(parameter.dtype)
        target = torch.as_tensor(np.asarray(targets), device=device).long()
        attribution = explainer(model, x, target)
        if channels and attribution.ndim == 4:
            return attribution.cpu().numpy()
        return spatial_map(attribution)[:, None].cpu().numpy()

    return explain
