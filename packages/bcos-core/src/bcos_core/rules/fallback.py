"""Functions without a rule: called if they turn out to be linear, refused by name if not."""

import sys
from collections.abc import Iterator, Sequence
from traceback import walk_stack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import resolve_name

from bcos_core.buffers import kept_buffers
from bcos_core.dependence import depends, map_tensors, tensors
from bcos_core.errors import BcosError
from bcos_core.rules.table import Function, is_in_place

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.complex128: 1e-9, torch.complex64: 1e-4}
"""Share of the largest value by which a sum may be missed; a hundredth in coarser precisions."""


def call_if_linear(func: Function, args: Sequence[Any], kwargs: dict[str, Any], model: nn.Module) -> Any:
    """Call a function that has no rule, if it is linear in all that depends on the input; else refuse it by name.

    That is tried out: ``f(x) + f(r) = f(x + r)`` for an r of mixed signs.
    """
    result = func(*args, **kwargs)
    if not any(depends(t) for t in tensors(result)):
        return result  # shapes, comparisons, indices
    with kept_buffers(model):  # an observer of ranges would learn from the noise
        is_linear = not is_in_place(func) and _is_additive(func, _probe(args, kwargs), result)
    if not is_linear:
        raise BcosError(
            f"explanation mode has no rule for {resolve_name(func) or func.__name__}, called {caller(model)}, and it "
            "is not linear in its inputs; give it one with bcos_core.register_rules, or freeze the model's dynamic "
            "factor with bcos_core.freeze"
        )
    return result


Arguments = tuple[Sequence[Any], dict[str, Any]]


def _probe(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Arguments, Arguments]:
    """Arguments r, and x + r, of mixed signs and x's size, to call a function with beside x."""
    generator = torch.Generator().manual_seed(0)
    other, added = {}, {}
    for tensor in tensors([args, kwargs]):
        if depends(tensor):
            x = tensor.detach()
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
            other[id(tensor)] = (noise * x.abs().double().mean()).to(x.dtype)
            added[id(tensor)] = x + other[id(tensor)]

    def replaced(new: dict[int, Tensor]) -> Arguments:
        return map_tensors(lambda t: new.get(id(t), t), list(args)), map_tensors(lambda t: new.get(id(t), t), kwargs)

    return replaced(other), replaced(added)


def _is_additive(func: Function, probe: tuple[Arguments, Arguments], result: Any) -> bool:
    try:
        with torch.no_grad():
            other, added = (list(tensors(func(*args, **kwargs))) for args, kwargs in probe)
        return _add_up(list(tensors(result)), other, added)
    except (RuntimeError, ValueError, TypeError):  # not defined there, or for sparse tensors: not linear
        return False


def _add_up(given: list[Tensor], other: list[Tensor], added: list[Tensor]) -> bool:
    if len(other) != len(given) or len(added) != len(given):
        return False
    for x, r, both in zip(given, other, added, strict=True):
        if not depends(x):
            continue
        if not x.shape == r.shape == both.shape:
            return False
        size = torch.stack(
            [t.detach().abs().amax() if t.numel() else t.new_zeros(()).abs() for t in (x, r, both)]
        ).max()
        missing = (x.detach() + r - both).abs()
        if not bool((missing <= _TOLERANCE.get(x.dtype, 1e-2) * size).all()):
            return False
    return True


def caller(model: nn.Module) -> str:
    """Where the running code is, in words."""
    found = calling_module(model)
    if found is None:
        return "outside of any module"
    name, module = found
    return f"in module {name!r} ({type(module).__name__})" if name else f"in {type(module).__name__}"


def calling_module(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Module of the model that the running code belongs to, with its name: the innermost frame that has one."""
    names = {id(module): name for name, module in model.named_modules()}
    for frame, _ in walk_stack(sys._getframe()):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            return names.get(id(module), ""), module
    return None


def is_in_custom_function() -> bool:
    """Whether the running code belongs to an ``autograd.Function``, in which nothing carries a gradient."""
    codes = {getattr(cls.forward, "__code__", None) for cls in _subclasses(torch.autograd.Function)}
    return any(frame.f_code in codes for frame, _ in walk_stack(sys._getframe()))


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
