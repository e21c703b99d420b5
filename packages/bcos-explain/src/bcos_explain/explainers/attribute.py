"""Explaining with any explainer: several targets, in batches that fit into memory."""

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target, spatial_map
from bcos_explain.explainers.memory import in_batches


def attribute(
    explainer: Explainer, model: nn.Module, x: Tensor, target: Target = None, *, batch_size: int | None = None
) -> Tensor:
    """Maps of any explainer: channels summed, several targets, memory bounded.

    Args:
        explainer: any; one that takes several targets is called once for all of them, another one for each.
        model: in eval mode.
        x: (N, C, H, W).
        target: None, an integer, (N,) or (N, T).
        batch_size: images explained at once; None for all. Where memory runs out it is halved, and the halved
            size kept for the rest.

    Returns:
        (N, [T,] H, W), on the device of x; T is there where `target` is (N, T).

    Raises:
        BcosError: as the explainer, one that returns another shape, or memory that is not enough for a single
            image.
    """

    def work(part: slice) -> Tensor:
        chosen = target[part] if isinstance(target, Tensor) and target.ndim else target
        return _maps(explainer, model, x[part], chosen)

    return torch.cat(list(in_batches(work, len(x), batch_size)))


def _maps(explainer: Explainer, model: nn.Module, x: Tensor, target: Target) -> Tensor:
    several = isinstance(target, Tensor) and target.ndim == 2
    if several and not getattr(explainer, "several_targets", False):
        assert isinstance(target, Tensor)
        return torch.stack([_maps(explainer, model, x, column) for column in target.unbind(1)], 1)
    attribution = explainer(model, x, target)
    if several and attribution.ndim == 5:
        attribution = attribution.sum(2)
    maps = attribution if several else spatial_map(attribution)
    expected = (*(target.shape if several else x.shape[:1]), *x.shape[2:])  # type: ignore[union-attr] # reason: several says it is a tensor
    if maps.shape != expected:
        raise BcosError(
            f"the explainer gave maps of shape {tuple(maps.shape)} for inputs of shape {tuple(x.shape)}, "
            f"needed {tuple(expected)}"
        )
    return maps
