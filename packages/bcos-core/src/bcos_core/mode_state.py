"""Whether explanation mode is on, and what that means for a dynamic factor: the part of the mode that layers need."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_DEPTH: ContextVar[int] = ContextVar("bcos_explanation_depth", default=0)


def is_explaining() -> bool:
    """Whether the running thread (or task) is inside :func:`bcos_core.explanation_mode`.

    Never while a graph is compiled: compiled graphs do not run in explanation mode (and older versions of
    PyTorch cannot compile the lookup).
    """
    return not torch.compiler.is_dynamo_compiling() and _DEPTH.get() > 0


def freeze(factor: Tensor) -> Tensor:
    """Return a dynamic factor unchanged, or detached inside :func:`bcos_core.explanation_mode`.

    This is all that a layer of your own needs in order to be explained exactly: wrap every quantity that
    depends on the input and multiplies it, so that the layer reads ``y = freeze(g(x)) * (A x)``.
    """
    return factor.detach() if is_explaining() else factor


@contextmanager
def enter() -> Iterator[bool]:
    """Turn the mode on for this thread until the block ends; gives whether it was off before."""
    depth = _DEPTH.get()
    token = _DEPTH.set(depth + 1)
    try:
        yield depth == 0
    finally:
        _DEPTH.reset(token)
