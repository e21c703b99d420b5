"""Norms: the variance is frozen, never the mean."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_core.additive_terms import named_like, shift
from bcos_core.dependence import depends
from bcos_core.errors import BcosError
from bcos_core.norms.base import divide_by_std, variance
from bcos_core.precision import widened
from bcos_core.rules.additions import reshaped
from bcos_core.rules.products import product
from bcos_core.rules.table import RULES, Function, composition, rule
from bcos_core.tape import held


@rule("batch_norm")
def batch_norm(
    _func: Function,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001 - reason: given by name
    eps: float = 1e-5,
) -> Tensor:
    """``weight · (x - mean) / sqrt(var + eps) + bias`` with running statistics."""
    if training or running_mean is None or running_var is None:
        raise BcosError(
            "cannot explain a model that normalises with the statistics of the batch, which mixes its images; use "
            "running statistics (training=False)"
        )
    mean = _along_channels(running_mean, input)
    return _affine(
        shift(input, named_like(mean, -mean)) * _along_channels((running_var + eps).rsqrt(), input), weight, bias
    )


@rule("layer_norm")
def layer_norm(
    _func: Function,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """Standardised over the last dimensions."""
    y = _standardise(input, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else _scaled(y, weight, weight.to(y.dtype))
    return y if bias is None else shift(y, bias)


@rule("group_norm")
def group_norm(
    _func: Function,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """Standardised over groups of channels."""
    groups = input.unflatten(1, (num_groups, -1))
    y = _standardise(groups, tuple(range(2, groups.ndim)), eps).flatten(1, 2)
    return _affine(y, weight, bias)


@rule("instance_norm")
def instance_norm(
    _func: Function,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Standardised over the positions of each channel."""
    if use_input_stats:
        return _affine(_standardise(input, tuple(range(2, input.ndim)), eps), weight, bias)
    return batch_norm(F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)  # type: ignore[no-any-return] # reason: rules are any callables


def _parameters_first(
    func: Function,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    by_batch: bool,
    momentum: float,
    eps: float,
    _cudnn: bool = True,
) -> Tensor:
    """Norms of the namespace torch take the arguments of those of torch.nn.functional in another order."""
    replacement = batch_norm if func is torch.batch_norm else instance_norm
    function = getattr(F, func.__name__)
    return replacement(function, input, running_mean, running_var, weight, bias, by_batch, momentum, eps)  # type: ignore[no-any-return] # reason: rules are any callables


RULES.update(dict.fromkeys((torch.batch_norm, torch.instance_norm), _parameters_first))


@composition("rms_norm")
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """``weight · x / sqrt(mean(x²) + eps)`` over the last dimensions."""
    dims = tuple(range(-len(normalized_shape), 0))
    eps = _default_eps(input.dtype, input.device) if eps is None else eps
    y = (input * (widened(input.detach()).square().mean(dims, keepdim=True) + eps).rsqrt()).to(input.dtype)
    return y if weight is None else y * weight


@functools.cache
def _default_eps(dtype: torch.dtype, device: torch.device) -> float:
    """What PyTorch adds by default: the resolution of the type, or of float32, in which it computes half precisions."""
    x = torch.tensor([2.0**-10], dtype=dtype, device=device)
    with torch._C.DisableTorchFunction():
        given = float(F.rms_norm(x, (1,)))
    candidates = [torch.finfo(kind).eps for kind in (dtype, torch.float32)]
    return min(candidates, key=lambda eps: abs(2.0**-10 * (2.0**-20 + eps) ** -0.5 - given))


@composition("normalize")
def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Any:  # noqa: ARG001
    """``x / max(‖x‖, eps)``."""
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


@composition("cosine_similarity")
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
    """``x₁·x₂ / (‖x₁‖ ‖x₂‖)``."""
    x1, x2 = torch.broadcast_tensors(x1, x2)
    return (normalize(x1, dim=dim, eps=eps) * normalize(x2, dim=dim, eps=eps)).sum(dim)


@composition("local_response_norm")
def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """``x / (k + alpha · m)^beta`` with the mean square m of the `size` channels around."""
    squares = input.detach().square().flatten(2).unsqueeze(1)  # (N, 1, C, positions)
    padded = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    mean = F.avg_pool2d(padded, (size, 1), stride=1).reshape(input.shape)
    return input / (k + alpha * mean).pow(beta)


def _standardise(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` with a frozen variance."""
    return divide_by_std(x - x.mean(dims, keepdim=True), held(variance(x, dims)), eps)


def _along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return reshaped(named_like(parameter, parameter.to(x.dtype)), (1, -1, *[1] * (x.ndim - 2)))


def _scaled(y: Tensor, weight: Tensor, view: Tensor) -> Tensor:
    """``y · weight``, whose `view` has the shape of y; rules cannot tell a view of a parameter from the input."""
    return product(torch.mul, y, view) if depends(weight) else y * view


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else _scaled(y, weight, _along_channels(weight, y))
    return y if bias is None else shift(y, _along_channels(bias, y))
