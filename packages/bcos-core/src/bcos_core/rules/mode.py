"""The mode itself: every call of a PyTorch function passes through it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_core.additive import current_terms, name_as, name_of
from bcos_core.dependence import map_tensors, mark_constant, tensors
from bcos_core.rules.table import (
    COMPOSITIONS,
    IN_PLACE_COMPOSITIONS,
    LINEAR,
    RULES,
    copied_beside,
    count_dependent,
    functions,
    overwrite,
)
from bcos_core.rules.unlisted import call_if_linear


class FrozenOperations(TorchFunctionMode):
    """Applies the rules while it is active in this thread.

    While additive terms are measured, parameters enter every operation detached.

    Args:
        model: that is explained, to name its modules in messages.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the rule for `func` if there is one, else `func`."""
        kwargs = kwargs or {}
        if func in _PROPERTIES:
            return func(*args, **kwargs)
        terms = current_terms()
        if terms is not None:
            args = map_tensors(terms.without_gradient, list(args))
            kwargs = map_tensors(terms.without_gradient, kwargs)
        if count_dependent(args[:1] if func in _LIKE_ANOTHER else args, kwargs):
            return self._apply(func, args, kwargs)
        learned = terms is None and any(t.requires_grad for t in tensors([args, kwargs]))
        result = func(*args, **kwargs)
        if learned:
            mark_constant(result)
        named = next((name for a in tensors(list(args)) if (name := name_of(a)) is not None), None)
        for tensor in tensors(result) if named is not None else ():  # a view, slice or multiple of a parameter
            name_as(tensor, str(named))
        return result

    def _apply(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        terms = current_terms()
        if terms is not None and args and isinstance(args[0], Tensor):
            terms.dtypes.add(args[0].dtype)
        rule = RULES.get(func)
        if rule is not None:
            return rule(func, *args, **kwargs)
        if func in LINEAR:
            return func(*args, **kwargs)
        formula = COMPOSITIONS.get(func) or IN_PLACE_COMPOSITIONS.get(func)
        if formula is None:
            return call_if_linear(func, args, kwargs, self.model)
        target = args[0]
        if func in IN_PLACE_COMPOSITIONS:
            args, kwargs = copied_beside(target, args, kwargs)
        with self:
            result = formula(*args, **kwargs)
        return overwrite(target, result) if func in IN_PLACE_COMPOSITIONS else result


_PROPERTIES = frozenset(
    getattr(torch.Tensor, name).__get__
    for name in ("requires_grad", "is_leaf", "shape", "dtype", "device", "ndim", "layout", "is_cuda", "grad_fn")
)
"""Properties that tell of the tensor itself."""


_LIKE_ANOTHER = frozenset(
    f for name in ("expand_as", "reshape_as", "view_as", "type_as", "to") for f in functions(name)
)
"""Functions that take shape, type or device alone from their other argument."""
