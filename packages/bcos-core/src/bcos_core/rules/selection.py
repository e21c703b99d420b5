"""Functions that select elements: linear as long as the same elements are selected."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad

from bcos_core.dependence import depends, map_tensors, tensors
from bcos_core.rules.table import is_in_place, split_inplace
from bcos_core.tape import current_tape


def selected(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that selects elements (relu, maxima, sorting); a replay selects those of the recorded input."""
    tape = current_tape()
    if tape is None:
        return function(*args, **kwargs)
    given = [t for t in tensors([args, kwargs]) if depends(t)]
    recorded = [tape.hold(t.detach()) for t in given]
    if not tape.is_replaying:
        return function(*args, **kwargs)
    # What is selected is not a tensor that could be held. But the function is linear around the recorded input, so
    # its value there plus its forward derivative along the difference selects the same elements of the new input.
    with forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # forward_ad loads parts of PyTorch that TorchScript made
        duals = {
            id(t): forward_ad.make_dual(value.clone(), t - value) for t, value in zip(given, recorded, strict=True)
        }
        moved = [map_tensors(lambda t: duals.get(id(t), t), part) for part in (list(args), kwargs)]
        result = map_tensors(_at_the_tangent, function(*moved[0], **moved[1]))
    changes_input = is_in_place(function) or split_inplace(function, args, kwargs)[0]
    return given[0].copy_(result) if changes_input and args and given[0] is args[0] else result


def _at_the_tangent(dual: Tensor) -> Tensor:
    if not dual.is_floating_point():
        return dual
    value: Tensor
    value, tangent = forward_ad.unpack_dual(dual)
    return value if tangent is None else value + tangent
