"""Formulas that explanation mode sees as one call, in place of the dozen that each makes and that it would look up."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from bcos_core.dependence import depends
from bcos_core.mode_state import is_explaining

P = ParamSpec("P")
FORMULAS: set[Callable[..., Any]] = set()
"""They are linear in their first argument: dynamic factors they freeze themselves, and let the tape hold."""


def as_one_call(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let explanation mode see one call of `function`, whose first argument is the input.

    With MaxOut, which selects, or where another argument depends on the input too, it sees all calls inside.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        seen = is_explaining() and has_torch_function(args) and kwargs.get("max_out", 1) == 1
        others: tuple[object, ...] = (*args[1:], *kwargs.values())
        # Parameters never depend on the input. To ask them would be two more calls that explanation mode looks up.
        if seen and not any(depends(value) for value in others if type(value) is not nn.Parameter):
            result: Tensor = handle_torch_function(call, args, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    FORMULAS.add(call)
    return call
