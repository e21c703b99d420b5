"""Which outputs are explained."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from bcos_core.conv import BcosConv
from bcos_core.errors import BcosError, first_line, shown
from bcos_core.norms.batch import RunningNorm
from bcos_core.plugins import suggestion

Selector = Callable[[Any], Tensor]
Classes = int | str | Sequence[int | str] | Sequence[Sequence[int | str]] | Tensor | None
Target = Classes | Selector

_pooling = nn.modules.pooling
_CHANNELS_FIRST = (
    *(BcosConv, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, RunningNorm),
    *(_pooling._AvgPoolNd, _pooling._MaxPoolNd, _pooling._AdaptiveAvgPoolNd, _pooling._AdaptiveMaxPoolNd),
)


def channels_first(layer: nn.Module | None) -> bool:
    """Whether a layer's outputs of three dimensions are (N, C, L); those of others are tokens (N, T, C)."""
    if isinstance(layer, nn.Flatten):
        return layer.start_dim == 2  # of (N, C, H, W)
    return isinstance(layer, _CHANNELS_FIRST)


@overload
def with_indices(model: nn.Module, target: Classes) -> int | Tensor | None: ...
@overload
def with_indices(model: nn.Module, target: Target) -> int | Tensor | Selector | None: ...
def with_indices(model: nn.Module, target: Target) -> int | Tensor | Selector | None:
    """Replace names of classes in a target by their places in ``model.class_names``, and sequences by tensors.

    Raises:
        BcosError: a name that is not there or there twice, or sequences of different lengths.
    """
    if target is None or isinstance(target, int | Tensor) or callable(target):
        return target
    if isinstance(target, str):
        return _class_index(model, target)
    try:
        return torch.as_tensor(_looked_up(model, target))
    except (ValueError, TypeError, RuntimeError) as reason:
        if isinstance(reason, BcosError):
            raise
        raise BcosError(
            "target must be None, a class, (N,) or (N, T) classes, by index or by name, got "
            f"{shown(target)}: {first_line(reason)}"
        ) from reason


def _looked_up(model: nn.Module, target: Any) -> Any:
    if isinstance(target, list | tuple):
        return [_looked_up(model, part) for part in target]
    return _class_index(model, target) if isinstance(target, str) else target


def _class_index(model: nn.Module, name: str) -> int:
    names = getattr(model, "class_names", None)
    if not isinstance(names, list | tuple):
        raise BcosError(
            f"the model has no class_names among which to find {shown(name)}; set model.class_names to a list of names "
            "in the order of its outputs, or give an index"
        )
    if names.count(name) != 1:
        what = "no class" if name not in names else f"{names.count(name)} classes"
        raise BcosError(f"the model has {what} {shown(name)}; {suggestion(name, names)}, or give an index")
    return names.index(name)


def select(outputs: Any, target: Target, relative: bool, module: nn.Module, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose what is explained: logits (N, K), the scores (N, T), and the indices (N,) or (N, T) they belong to.

    Args:
        module: the layer whose outputs are explained, or the model.
    """
    if callable(target) and not isinstance(target, Tensor):
        scores = target(outputs)
        if not isinstance(scores, Tensor) or scores.ndim not in (1, 2) or scores.shape[0] != n or not scores.numel():
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise BcosError(f"a callable target must return ({n},) or ({n}, T) values, got {got}")
        if relative:
            raise BcosError("relative=True needs class indices as target, got a callable; subtract in the callable")
        indices = torch.arange(scores[0].numel(), device=scores.device).expand(n, -1)
        single = scores.ndim == 1
        scores = scores.reshape(n, -1)
        return scores, scores, indices[:, 0] if single else indices
    logits = _one_score_per_unit(outputs, channels_are_first=channels_first(module))
    indices = class_indices(logits, target)
    scores = logits.gather(1, indices.reshape(n, -1))
    if relative:
        scores = scores - logits.mean(1, keepdim=True)
    return logits, scores, indices


def _one_score_per_unit(outputs: Tensor, channels_are_first: bool) -> Tensor:
    """(N, K) from (N, K), (N, K, *spatial), or tokens (N, T, K)."""
    if outputs.ndim == 2:
        return outputs
    return outputs.sum(1) if outputs.ndim == 3 and not channels_are_first else outputs.flatten(2).sum(2)


def class_indices(logits: Tensor, target: Target) -> Tensor:
    """Classes in [0, K) that a target means, (N,) or (N, T), for logits (N, K)."""
    n, k = logits.shape
    if target is None:
        return logits.detach().argmax(1)
    indices = torch.as_tensor(target, device=logits.device)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise BcosError(f"target must hold integer class indices, got {indices.dtype}")
    indices = indices.long()  # PyTorch has no minimum of unsigned integers
    if indices.ndim == 0:
        indices = indices.expand(n)
    if indices.ndim not in (1, 2) or indices.shape[0] != n or indices.numel() == 0:
        raise BcosError(
            f"target must be None, an integer, ({n},) or ({n}, T) integers for {n} inputs, got shape "
            f"{tuple(indices.shape)}"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= k:
        raise BcosError(
            f"target must be in [0, {k}) for {k} outputs, got values from {int(indices.min())} to {int(indices.max())}"
        )
    return indices.clone()  # an inference tensor could not be saved for the backward pass
