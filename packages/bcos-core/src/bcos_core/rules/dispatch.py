"""Dispatch of rules: every call of a PyTorch function in explanation mode passes through here."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from bcos_core.additive_terms import FROZEN, UNNAMED, AdditiveTerms, current_terms, name_as, name_of
from bcos_core.audit import nodes
from bcos_core.dependence import depends, map_tensors, mark_constant, tensors
from bcos_core.errors import BcosError
from bcos_core.functorch import is_differentiating
from bcos_core.one_call import FORMULAS
from bcos_core.rules.fallback import call_if_linear, caller, calling_module, is_in_custom_function
from bcos_core.rules.selection import selected
from bcos_core.rules.table import (
    COMPOSITIONS,
    IN_PLACE_COMPOSITIONS,
    LINEAR,
    RULES,
    SELECTING,
    THIRD_PARTY,
    copied_beside,
    count_dependent,
    functions,
    is_in_place,
    overwrite,
    public_function,
)
from bcos_core.tape import current_tape


class RuleDispatch(TorchFunctionMode):
    """Applies the rules while it is active in this thread.

    While additive terms are measured, parameters enter every operation detached.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._within: list[Callable[..., Any]] = []
        """Functions whose third-party rule is running."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the rule for `func` if there is one, else `func`."""
        kwargs = kwargs or {}
        if isinstance(func, OpOverload | OpOverloadPacket) and func not in RULES:
            func = public_function(func)
        if func in _PROPERTIES:
            return func(*args, **kwargs)
        terms = current_terms()
        if terms is None:
            if count_dependent(args[:1] if func in _LIKE_ANOTHER else args, kwargs):
                return self._apply(func, args, kwargs)
            learned = any(t.requires_grad for t in tensors([args, kwargs]))
            result = func(*args, **kwargs)
            if learned:
                mark_constant(result)
            return result
        # Parameters enter detached: what requires a gradient from here on depends on the input. So constants are told
        # from factors without following shapes or names, and autograd records no derivative by any parameter.
        args = map_tensors(terms.without_gradient, args)
        kwargs = map_tensors(terms.without_gradient, kwargs) if kwargs else kwargs
        if func in _DERIVATIVES or is_differentiating():
            raise BcosError(
                f"cannot explain: {caller(self.model)} takes derivatives in its forward pass, which explanation "
                "mode would change"
            )
        if func in _HOOKS:
            terms.audit.doubt(func.__name__.strip("_"))
        terms.audit.random |= func in _RANDOM
        read = args[:1] if func in _LIKE_ANOTHER else args[1:] if func in _SHAPED_LIKE else args
        given = tensors((args, kwargs))
        if kwargs.get("out") is not None and any(map(depends, given)):
            raise BcosError(
                f"cannot explain: {caller(self.model)} writes the result of {func.__name__} to out=, which explanation "
                "mode does not follow; assign what it returns"
            )
        if any(map(depends, given if read is args else tensors((read, kwargs)))):
            return self._account(terms, func, args, kwargs, given)
        return _constant(terms, func, args, read, kwargs)

    def _account(
        self, terms: AdditiveTerms, func: Callable[..., Any], args: Any, kwargs: Any, values: list[Tensor]
    ) -> Any:
        """Apply the rule for `func`, and note what vouches for its result; `values` are all tensors it is given."""
        audit = terms.audit
        given = args[0] if args and isinstance(args[0], Tensor) else None
        constant = given if given is not None and not depends(given) else None
        unrecorded = given if not torch.is_grad_enabled() and given is not None and depends(given) else None
        version = None if unrecorded is None else unrecorded._version
        if unrecorded is not None and is_in_place(func):
            self._refuse_unrecorded()
        before = nodes(values)
        audit.unknown |= any(name_of(t) is None and not depends(t) for t in values)
        audit.escaped |= _is_shaped_by_values(func, args)
        result = self._apply(func, args, kwargs)
        if unrecorded is not None and unrecorded._version != version:
            self._refuse_unrecorded()
        results = tensors(result)
        if func not in THIRD_PARTY:
            changed = given if result is None or result is given else None
            audit.vouch(before, [*results, *tensors([changed, None if changed is None else changed._base])])
        audit.note_types([*values, *results])
        return self._hold(terms, func, given, constant, result)

    def _hold(
        self, terms: AdditiveTerms, func: Callable[..., Any], given: Tensor | None, constant: Tensor | None, result: Any
    ) -> Any:
        """Name what is frozen from here on, and let the tape record it or give it out.

        Args:
            given: the first argument, which the function may have changed.
            constant: the same, if it did not depend on the input before.
        """
        if not torch.is_grad_enabled() and is_in_custom_function():  # computes what will carry a gradient
            return result
        tape = current_tape()
        if func in _ESCAPES:
            terms.audit.escaped = True
            return result if tape is None else tape.hold(result)

        def hold(tensor: Tensor) -> Tensor:
            if depends(tensor):
                return tensor
            name = name_of(tensor)
            if name is None or (tensor is constant and not name.endswith(FROZEN)):
                name_as(tensor, f"{name or self._origin(func)}{FROZEN}")
            if tensor is constant:  # it is overwritten with what depends on the input
                terms.note_written(tensor)
            if tape is None:
                return tensor
            recorded = tape.hold(tensor)
            if tensor is not given:
                return name_as(recorded, str(name_of(tensor)))  # type: ignore[no-any-return] # reason: a tensor
            return tensor if recorded is tensor else tensor.copy_(recorded)

        if result is None and constant is not None and not depends(constant):  # such as item assignment under no_grad
            hold(constant)
        return map_tensors(hold, result)

    def _origin(self, func: Callable[..., Any]) -> str:
        """What a frozen result is named after: its function, or the module that records no gradients."""
        place = None if torch.is_grad_enabled() else calling_module(self.model)
        if place is not None:
            return place[0] or type(place[1]).__name__
        owner = getattr(func, "__self__", None) if func.__name__ == "__get__" else None  # of a property
        return str(getattr(owner, "__name__", func.__name__)).strip("_")

    def _refuse_unrecorded(self) -> None:
        raise BcosError(
            f"cannot explain: {caller(self.model)} changes in place, under no_grad, what depends on the input, and "
            "autograd does not record that; do it outside of no_grad, or on a detached copy"
        )

    def _apply(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if func in self._within:
            return func(*args, **kwargs)
        if func in RULES and func in THIRD_PARTY:
            return self._third_party(func, args, kwargs)
        if func in RULES:
            return RULES[func](func, *args, **kwargs)
        if func in LINEAR or func in FORMULAS:
            return func(*args, **kwargs)
        if func in SELECTING:
            return selected(func, *args, **kwargs)
        formula = COMPOSITIONS.get(func) or IN_PLACE_COMPOSITIONS.get(func)
        if formula is None:
            return call_if_linear(func, args, kwargs, self.model)
        target = args[0]
        if func in IN_PLACE_COMPOSITIONS:
            args, kwargs = copied_beside(target, args, kwargs)
        with self:
            result = formula(*args, **kwargs)
        return overwrite(target, result) if func in IN_PLACE_COMPOSITIONS else result

    def _third_party(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Apply a rule of another package, with the rules for all that it calls but the function itself."""
        self._within.append(func)
        try:
            with self:
                return RULES[func](func, *args, **kwargs)
        finally:
            self._within.pop()


def _constant(terms: AdditiveTerms, func: Callable[..., Any], args: Any, read: Any, kwargs: Any) -> Any:
    """Call a function of constants; its result is named after one of them, first of all after a frozen one."""
    named, frozen = UNNAMED, False
    # Numbers come before indices: what is looked up in a table has the table's name.
    for tensor in sorted(tensors([read, kwargs]), key=lambda t: not t.is_floating_point()):
        name = terms.name_of(tensor)
        if name is None:
            terms.audit.unknown = True
        elif not frozen and name.endswith(FROZEN):
            named, frozen = name, True
        elif named == UNNAMED:
            named = name
    if frozen and (func in _ESCAPES or _is_shaped_by_values(func, args)):
        terms.audit.escaped = True
    if func in _FROM_OUTSIDE and not all(map(_is_plain, args)):
        terms.audit.unknown = True
    result = func(*args, **kwargs)
    written = [args[0], args[0]._base] if frozen and is_in_place(func) else []
    for tensor in tensors([result, written]):
        if frozen or name_of(tensor) is None:
            name_as(tensor, named)
    return result


def _is_shaped_by_values(func: Callable[..., Any], args: Any) -> bool:
    """Whether the number of elements of the result depends on values, where a program can read it."""
    if func in _SHAPED_BY_VALUES:
        return True
    return func is torch.Tensor.__getitem__ and any(t.dtype == torch.bool for t in tensors(args[1:]))


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers alone."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | Tensor)


_PROPERTIES = frozenset(
    getattr(torch.Tensor, name).__get__
    for name in ("requires_grad", "is_leaf", "shape", "dtype", "device", "ndim", "layout", "is_cuda", "_base")
) | frozenset(
    getattr(torch.Tensor, name)
    for name in ("size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_contiguous", "__len__")
)
"""Properties of a tensor that do not depend on its values; of views, what they are views of."""


_DERIVATIVES = frozenset((torch.Tensor.backward, torch.autograd.grad, torch.autograd.backward))


def _named(names: str) -> frozenset[Callable[..., Any]]:
    return frozenset(f for name in names.split() for f in functions(name))


_LIKE_ANOTHER = _named("expand_as reshape_as view_as type_as to")
"""Functions that take shape, type or device alone from their other argument."""
_SHAPED_LIKE = _named("""
    zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty
    new_tensor new_empty_strided
""")
"""Functions that take shape, type or device alone from their first argument."""
_RANDOM = _named("""
    rand randn randint randperm rand_like randn_like randint_like bernoulli bernoulli_ multinomial normal normal_
    poisson uniform_ exponential_ geometric_ cauchy_ log_normal_ random_ gumbel_softmax rrelu rrelu_
    fractional_max_pool2d fractional_max_pool3d
""")
"""Functions that draw at random; those of torch.nn.functional only in train mode, which a second pass tells."""
_ESCAPES = _named("""
    numpy __array__ item tolist __float__ __int__ __bool__ __index__ __complex__ is_nonzero equal allclose
    untyped_storage storage data_ptr __dlpack__ __repr__ __format__
""")
"""Functions that hand values out of PyTorch, where they are not followed."""
_SHAPED_BY_VALUES = _named("nonzero argwhere masked_select unique unique_consecutive bincount")
"""Functions whose results have a number of elements that depends on values."""
_HOOKS = _named("register_hook register_post_accumulate_grad_hook grad_fn")
"""Functions by which a model can change gradients unseen."""
_FROM_OUTSIDE = _named("tensor as_tensor asarray from_numpy frombuffer")
"""Functions that take values from outside of PyTorch."""
