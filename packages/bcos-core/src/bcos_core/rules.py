"""What explanation mode does to plain PyTorch operations.

B-cos layers freeze their dynamic factors themselves. Operations of plain PyTorch layers that stand beside
them are rewritten here, when the function is called: layer, group, instance and batch norms freeze their
variance (never their mean), smooth activations become ``x`` times a frozen gate, and every constant that an
operation adds is routed through :mod:`bcos_core.additive`. The values stay the same; only gradients change.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bcos_core.additive import AdditiveTerms, current_terms, is_constant, name_as, name_of, shift
from bcos_core.errors import BcosError
from bcos_core.norms.base import divide_by_std, variance

Rule = Callable[..., Any]


class FrozenOperations(TorchFunctionMode):
    """Replaces calls of the functions in ``RULES`` while it is active in this thread.

    While additive terms are measured, parameters enter every operation detached.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the rule for `func` if there is one, else `func`."""
        kwargs = kwargs or {}
        rule = RULES.get(func)
        terms = current_terms()
        if terms is None or func in _ATTRIBUTES:
            return func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)
        args = [_detached(terms, a) for a in args]
        kwargs = {name: _detached(terms, value) for name, value in kwargs.items()}
        result = func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)
        if isinstance(result, Tensor) and not result.requires_grad:
            named = next((name for a in args if (name := name_of(a)) is not None), None)
            if named is not None:  # a view, slice or multiple of a parameter keeps its name
                name_as(result, named)
        return result


_ATTRIBUTES = frozenset(getattr(torch.Tensor, name).__get__ for name in ("requires_grad", "is_leaf"))
"""Properties that tell of the parameter itself."""


def _detached(terms: AdditiveTerms, value: Any) -> Any:
    """`value` with the parameters in it detached; looks into lists, as torch.cat takes them."""
    if isinstance(value, Tensor):
        return terms.without_gradient(value)
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
        return type(value)(_detached(terms, v) for v in value)
    return value


def _addition(func: Rule, input: Any, other: Any, **kwargs: Any) -> Any:
    """``input ± other``: if one of them is a constant, measure what it contributes."""
    terms = current_terms()
    if terms is not None:
        if _depends(input) and is_constant(other):
            other = terms.leaf(other, input)
        elif _depends(other) and is_constant(input) and func not in _IN_PLACE:
            input = terms.leaf(input, other)
    return func(input, other, **kwargs)


def _matrix_addition(
    _func: Rule, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """``beta · input + alpha · mat1 @ mat2``, as converted linear layers have it."""
    return _addition(torch.add, alpha * (mat1 @ mat2), _named_multiple(beta, input))  # type: ignore[no-any-return] # reason: tensors in, tensor out


def _concatenation(func: Rule, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
    """Constants beside tensors that depend on the input, such as a class token, are measured."""
    terms = current_terms()
    dependent = next((t for t in tensors if _depends(t)), None)
    if terms is not None and dependent is not None:
        tensors = [terms.leaf(t, dependent) if is_constant(t) else t for t in tensors]
    return func(tensors, *args, **kwargs)


def _depends(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad


def _named_multiple(factor: float, constant: Tensor) -> Tensor:
    name = name_of(constant)
    return constant if factor == 1 else factor * constant if name is None else name_as(factor * constant, name)


def _linear(func: Rule, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = func(input, weight)
    return y if bias is None else shift(y, bias)


def _conv(func: Rule, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    y: Tensor = func(input, weight, None, *args, **kwargs)
    return y if bias is None else shift(y, _reshaped(bias, (-1, *[1] * (weight.ndim - 2))))


def _batch_norm(
    func: Rule,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:  # refused when a model is explained
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)  # type: ignore[no-any-return] # reason: func is any callable
    mean = _named_multiple(-1, _along_channels(running_mean, input))
    return _affine(shift(input, mean) * _along_channels((running_var + eps).rsqrt(), input), weight, bias)


def _layer_norm(
    _func: Rule,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    y = _standardise(input, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight.to(y.dtype)
    return y if bias is None else shift(y, bias)


def _group_norm(
    _func: Rule,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    groups = input.unflatten(1, (num_groups, -1))
    y = _standardise(groups, tuple(range(2, groups.ndim)), eps).flatten(1, 2)
    return _affine(y, weight, bias)


def _instance_norm(
    _func: Rule,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats:
        return _affine(_standardise(input, tuple(range(2, input.ndim)), eps), weight, bias)
    return _batch_norm(F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)


def _standardise(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` with a frozen variance."""
    return divide_by_std(x - x.mean(dims, keepdim=True), variance(x, dims), eps)


def _activation(func: Rule, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``f(x) = x · (f(x)/x)`` with a frozen gate ``f(x)/x``, for functions with ``f(0) = 0``."""
    inplace = kwargs.pop("inplace", False)
    x = input.detach()
    y: Tensor = func(x, *args, **kwargs)
    result = input * torch.where(x == 0, 0, y / x)
    return input.copy_(result) if inplace else result


def _dropout(func: Rule, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if training and p > 0:
        raise BcosError(f"cannot explain: the model drops activations at random (p={p:g}); call model.eval() first")
    return func(input, p, training, inplace)  # type: ignore[no-any-return] # reason: func is any callable


def _along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return _reshaped(parameter.to(x.dtype), (1, -1, *[1] * (x.ndim - 2)), name_of(parameter))


def _reshaped(parameter: Tensor, shape: tuple[int, ...], name: str | None = None) -> Tensor:
    """View a parameter in another shape; rules run outside of the mode, so its name is passed on here."""
    name = name or name_of(parameter)
    view = parameter.reshape(shape)
    return view if name is None else name_as(view, name)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * _along_channels(weight, y)
    return y if bias is None else shift(y, _along_channels(bias, y))


_IN_PLACE: frozenset[Rule] = frozenset({torch.Tensor.add_, torch.Tensor.sub_, torch.Tensor.subtract_})

RULES: dict[Callable[..., Any], Rule] = {
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    **dict.fromkeys((F.gelu, F.silu, F.mish, F.hardswish), _activation),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _conv),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), _dropout),
    **dict.fromkeys(
        (
            torch.add,
            torch.sub,
            torch.subtract,
            torch.rsub,
            torch.Tensor.add,
            torch.Tensor.sub,
            torch.Tensor.subtract,
            torch.Tensor.__rsub__,
            *_IN_PLACE,
        ),
        _addition,
    ),
    **dict.fromkeys((torch.addmm, torch.Tensor.addmm), _matrix_addition),
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), _concatenation),
}
