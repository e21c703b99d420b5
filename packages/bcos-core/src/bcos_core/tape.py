"""The frozen network at another point: dynamic factors are recorded in one pass and replayed in the next.

With all dynamic factors frozen a network is affine in its input. That can be tested: what it gives for another
input, with the factors of the first one, must lie on the map that was read off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from bcos_core.dependence import depends
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
        """Give out what was recorded from now on."""
        self._position = 0

    def hold(self, value: Any) -> Any:
        """Record `value`, or give out what was recorded in its place; refuse a network that takes another path."""
        # Factors have no names: the n-th of the second pass is the n-th of the first. Type and shape are compared,
        # since a model that branches on its input would otherwise be given a factor of another layer unnoticed.
        if self._position is None:
            self._values.append(value.detach().clone() if isinstance(value, Tensor) else value)
            return value
        recorded = self._values[self._position] if self._position < len(self._values) else None
        self._position += 1
        if type(recorded) is not type(value) or getattr(recorded, "shape", None) != getattr(value, "shape", None):
            raise BcosError(
                "cannot check the explanation: with its dynamic factors held, the model takes another path through its "
                "code for another input; something in its forward pass is not seen by explanation mode (TorchScript, "
                "another thread, numpy, a custom autograd function)"
            )
        return recorded


_TAPE: ContextVar[Tape | None] = ContextVar("bcos_tape", default=None)


@contextmanager
def run_tape(tape: Tape | None) -> Iterator[None]:
    """Record dynamic factors on `tape`, or replay them from it, inside the block."""
    token = _TAPE.set(tape)
    try:
        yield
    finally:
        _TAPE.reset(token)


def current_tape() -> Tape | None:
    """Return the tape that is running, if any."""
    return _TAPE.get()


def is_replaying() -> bool:
    """Whether factors of another input are given out, which do not fit the values."""
    tape = _TAPE.get()
    return tape is not None and tape.is_replaying


def held(factor: Tensor) -> Tensor:
    """Return a dynamic factor, already detached; from the tape where one is running."""
    tape = _TAPE.get()
    return factor if tape is None else tape.hold(factor)


def as_factor(value: Any) -> Any:
    """`value`, held constant if it depends on the input."""
    return held(value.detach()) if depends(value) else value
