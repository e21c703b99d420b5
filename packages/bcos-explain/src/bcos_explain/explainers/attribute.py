"""Explaining with any explainer: several targets, in batches that fit into memory."""

import logging

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Explainer, Target, spatial_map

_log = logging.getLogger(__name__)


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
    size = len(x) if batch_size is None else batch_size
    if size < 1:
        raise BcosError(f"batch_size must be at least 1, got {size}")
    parts: list[Tensor] = []
    start = 0
    while start < len(x):
        part = x[start : start + size]
        chosen = target[start : start + size] if isinstance(target, Tensor) and target.ndim else target
        try:
            parts.append(_maps(explainer, model, part, chosen))
        except RuntimeError as reason:
            if not is_out_of_memory(reason):
                raise
            if len(part) == 1:
                raise BcosError(
                    f"out of memory while explaining a single image of shape {tuple(x.shape[1:])}; use smaller images, "
                    "or a method that needs less"
                ) from reason
            size = len(part) // 2
            _log.warning("out of memory: explaining %d images at a time from here on", size)
        else:
            start += len(part)
            continue
        _free_cache()  # outside of the handler, which would hold on to the tensors of the failed call
    return torch.cat(parts)


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


def is_out_of_memory(reason: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU."""
    return isinstance(reason, torch.OutOfMemoryError) or "not enough memory" in str(reason)


def _free_cache() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
