"""Sparseness, complexity and effective pixels: over how many pixels an explanation is spread."""

import torch
from torch import Tensor, nn

from bcos_explain.explainers.contract import Explainer, Target
from bcos_explain.metrics.batches import Encode, Progress, each_map
from bcos_explain.metrics.result import MetricResult


def gini(maps: Tensor) -> Tensor:
    """Gini index of ``|a|`` over the pixels of (N, H, W): ``Σ_i (2i - P - 1) |a|_(i) / (P Σ |a|)``, sorted upwards.

    Returns:
        (N,), float64: 0 for an even map, 1 - 1/P for a single pixel, NaN for a map of zeros.
    """
    ordered = maps.double().abs().flatten(1).sort(1).values
    pixels = ordered.shape[1]
    weights = 2 * torch.arange(1, pixels + 1, device=maps.device, dtype=torch.float64) - pixels - 1
    return (ordered * weights).sum(1) / (pixels * ordered.sum(1))


def entropy(maps: Tensor) -> Tensor:
    """Entropy of the distribution ``|a| / Σ |a|`` over the pixels of (N, H, W), in nats.

    Returns:
        (N,), float64: 0 for a single pixel, ln P for an even map, NaN for a map of zeros.
    """
    sizes = maps.double().abs().flatten(1)
    total = sizes.sum(1, keepdim=True)
    value = torch.special.entr(sizes / total).sum(1)
    return torch.where(total[:, 0] > 0, value, torch.nan)


def sparseness(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> MetricResult:
    """Gini index of the map, see :func:`gini`; higher is sparser.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.

    Source: Chalasani et al., *Concise Explanations of Neural Networks Using Adversarial Training*, ICML 2020.
    """
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    scores = torch.cat([gini(m).cpu() for _, m in maps])
    return MetricResult(scores=scores, higher_is_better=True)


def complexity(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> MetricResult:
    """Entropy of the map, see :func:`entropy`; lower is simpler.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.

    Source: Bhatt et al., *Evaluating and Aggregating Feature-based Model Explanations*, IJCAI 2020.
    """
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    scores = torch.cat([entropy(m).cpu() for _, m in maps])
    return MetricResult(scores=scores, higher_is_better=False)


def effective_pixels(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> MetricResult:
    """Exponential of the entropy: how many pixels would share an even map of the same entropy.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`.

    Returns:
        Numbers from 1 to the number of pixels; lower is simpler.

    Source: the entropy is that of Bhatt et al., IJCAI 2020; its exponential is the perplexity, Hill's number of
        order 1 (Ecology, 1973).
    """
    maps = each_map(model, explainer, images, target, encode, batch_size, progress)
    scores = torch.cat([entropy(m).exp().cpu() for _, m in maps])
    return MetricResult(scores=scores, higher_is_better=False)
