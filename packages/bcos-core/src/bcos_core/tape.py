"""The frozen network at another point: dynamic factors are recorded in one pass and used again in the next.

With all dynamic factors frozen a network is affine in its input. That can be tried out: what it gives for another
input, with the factors of the first one, must lie on the map that was read off.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bcos_core.additive import current_terms
from bcos_core.dependence import depends, map_tensors, tensors
from bcos_core.errors import BcosError


class Tape:
    """Dynamic factors in the order in which a network meets them."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._position: int | None = None

    @property
    def is_replaying(self) -> bool:
        """Whether recorded values are given out."""
        return self._position is not None

    def rewind(self) -> None:
        """From now on give out what was recorded."""
        self._position = 0

    def hold(self, value: Any) -> Any:
        """Record `value`, or give out what was recorded in its place.

        Raises:
            BcosError: something else was recorded there: the network took another way through its code.
        """
        if self._position is None:
            self._values.append(value.detach().clone() if isinstance(value, Tensor) else value)
            return value
        recorded = self._values[self._position] if self._position < len(self._values) else None
        self._position += 1
        if type(recorded) is not type(value) or _shape(recorded) != _shape(value):
            raise BcosError(
                "cannot check the explanation: with its dynamic factors held, the model takes another way through its "
                "code for another input; something in its forward pass is not seen by explanation mode (TorchScript, "
                "another thread, numpy, a custom autograd function)"
            )
        return recorded


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else None


def held(factor: Tensor) -> Tensor:
    """Return a dynamic factor, already detached; from the tape where one is running."""
    tape = _current()
    return factor if tape is None else tape.hold(factor)


def product_of(factors: list[Tensor], multiply: Callable[..., Tensor]) -> Tensor | None:
    """``1/n Σᵢ`` of the product with all factors but the i-th held; None where none are to be given out.

    Args:
        factors: the n tensors that depend on the input.
        multiply: the product of such tensors.
    """
    tape = _current()
    if tape is None:
        return None
    recorded = [tape.hold(factor.detach()) for factor in factors]
    if not tape.is_replaying:
        return None
    parts = [multiply(*recorded[:i], factor, *recorded[i + 1 :]) for i, factor in enumerate(factors)]
    return torch.stack(parts).sum(0) / len(parts)


def selected(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function that selects elements (relu, maxima, sorting); a replay selects those of the recorded input."""
    tape = _current()
    if tape is None:
        return function(*args, **kwargs)
    given = [t for t in tensors([args, kwargs]) if depends(t)]
    recorded = [tape.hold(t.detach()) for t in given]
    if not tape.is_replaying:
        return function(*args, **kwargs)
    with forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # forward_ad loads parts of PyTorch that TorchScript made
        duals = {
            id(t): forward_ad.make_dual(value.clone(), t - value) for t, value in zip(given, recorded, strict=True)
        }
        moved = [map_tensors(lambda t: duals.get(id(t), t), part) for part in (list(args), kwargs)]
        result = map_tensors(_at_the_tangent, function(*moved[0], **moved[1]))
    if args and given[0] is args[0] and _changes_its_input(function, args, kwargs):
        return given[0].copy_(result)
    return result


def _at_the_tangent(dual: Tensor) -> Tensor:
    if not dual.is_floating_point():
        return dual
    value: Tensor
    value, tangent = forward_ad.unpack_dual(dual)
    return value if tangent is None else value + tangent


def _changes_its_input(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    from bcos_core.rules.table import split_inplace

    name = function.__name__
    return (name.endswith("_") and not name.endswith("__")) or bool(split_inplace(function, args, kwargs)[0])


def _current() -> Tape | None:
    terms = current_terms()
    return None if terms is None else terms.tape
