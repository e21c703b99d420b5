"""What explanation mode does to plain PyTorch operations.

B-cos layers freeze their dynamic factors themselves. Operations of plain PyTorch layers that stand beside them are
rewritten here, when the function is called: layer, group, instance and batch norms freeze their variance (never their mean), and every
constant that an operation adds is routed through :mod:`bcos_core.additive`. The values stay the same; only gradients change.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bcos_core.additive import current_terms, shift
from bcos_core.norms.base import divide_by_std, variance

Rule = Callable[..., Any]


class FrozenOperations(TorchFunctionMode):
    """Replaces calls of the functions in ``RULES`` while it is active in this thread."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the rule for `func` if there is one, else `func`."""
        rule = RULES.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(func, *args, **(kwargs or {}))


def _addition(func: Rule, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
    """``a ± b``: if one of them is a constant, measure what it contributes."""
    terms = current_terms()
    if terms is not None:
        if (
            isinstance(a, Tensor)
            and a.is_floating_point()
            and terms.is_constant(b)
            and not terms.is_constant(a)
        ):
            b = terms.leaf(b, a)
        elif (
            isinstance(b, Tensor)
            and b.is_floating_point()
            and terms.is_constant(a)
            and not terms.is_constant(b)
        ):
            a = terms.leaf(a, b)
    return func(a, b, *args, **kwargs)


def _linear(func: Rule, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = func(x, weight)
    return y if bias is None else shift(y, bias)


def _conv(
    func: Rule, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    y: Tensor = func(x, weight, None, *args, **kwargs)
    if bias is None:
        return y
    return shift(y, bias.reshape(-1, *[1] * (weight.ndim - 2)), name_of=bias)


def _batch_norm(
    func: Rule,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:  # refused when a model is explained
        return func(x, running_mean, running_var, weight, bias, training, momentum, eps)  # type: ignore[no-any-return] # reason: func is any callable
    centered = shift(x, -_along_channels(running_mean, x), name_of=running_mean)
    return _affine(centered * _along_channels((running_var + eps).rsqrt(), x), weight, bias)


def _layer_norm(
    _func: Rule,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    y = _standardise(x, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight.to(y.dtype)
    return y if bias is None else shift(y, bias.to(y.dtype), name_of=bias)


def _group_norm(
    _func: Rule,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    groups = x.unflatten(1, (num_groups, -1))
    y = _standardise(groups, tuple(range(2, groups.ndim)), eps).flatten(1, 2)
    return _affine(y, weight, bias)


def _instance_norm(
    _func: Rule,
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats:
        return _affine(_standardise(x, tuple(range(2, x.ndim)), eps), weight, bias)
    return _batch_norm(F.batch_norm, x, running_mean, running_var, weight, bias, False, momentum, eps)


def _standardise(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` with a frozen variance."""
    return divide_by_std(x - x.mean(dims, keepdim=True), variance(x, dims), eps)


def _along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * _along_channels(weight, y)
    return y if bias is None else shift(y, _along_channels(bias, y), name_of=bias)


RULES: dict[Callable[..., Any], Rule] = {
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _conv),
    **dict.fromkeys(
        (
            torch.add,
            torch.sub,
            torch.rsub,
            torch.Tensor.add,
            torch.Tensor.add_,
            torch.Tensor.sub,
            torch.Tensor.sub_,
            torch.Tensor.__rsub__,
        ),
        _addition,
    ),
}
