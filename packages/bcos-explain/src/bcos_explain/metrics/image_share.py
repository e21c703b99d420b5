"""How much of the explained logit the exact map accounts for."""

import torch
from torch import Tensor, nn

from bcos_core import explain
from bcos_explain.explainers.contract import Target
from bcos_explain.metrics.batches import Encode, Progress, each_batch
from bcos_explain.metrics.result import MetricResult


def image_share(
    model: nn.Module,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> MetricResult:
    """``|Σ contributions| / (|Σ contributions| + |bias - logit bias|)`` of the exact explanation, for each image.

    The logit bias is that of :class:`bcos_core.LogitLayer`, the same for every image and class; see
    :attr:`bcos_core.Explanation.image_share`.

    Args:
        model, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.

    Returns:
        Shares, higher is better, with their median as the value; undefined where nothing but a logit bias is there.

    Raises:
        BcosError: no images, or as :func:`bcos_core.explain`.
    """
    return _measured("image_share", model, images, target, encode, batch_size, progress)


def cancellation(
    model: nn.Module,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> MetricResult:
    """``|Σ contributions| / Σ |contributions|`` of the exact explanation, for each image.

    What contributions leave after they cancel: 1 where all have one sign, near 0 where the map is a balance.

    Args:
        model, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.

    Returns:
        Shares, higher is better, with their median as the value; undefined where all contributions are zero.

    Raises:
        BcosError: no images, or as :func:`bcos_core.explain`.
    """
    return _measured("cancellation", model, images, target, encode, batch_size, progress)


def _measured(
    name: str,
    model: nn.Module,
    images: Tensor,
    target: Target,
    encode: Encode | None,
    batch_size: int,
    progress: Progress | None,
) -> MetricResult:
    batches = each_batch(model, images, target, encode=encode, batch_size=batch_size, progress=progress)
    shares = torch.cat([getattr(explain(model, batch.x, batch.target), name).cpu() for batch in batches])
    return MetricResult(scores=shares, higher_is_better=True, statistic="median")
