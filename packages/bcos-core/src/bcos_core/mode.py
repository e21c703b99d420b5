"""Explanation mode: the dynamic factors of a network become constants, so that its gradient is ``W(x)``."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError

_DEPTH: ContextVar[int] = ContextVar("bcos_explanation_depth", default=0)


def is_explaining() -> bool:
    """Whether the running thread (or task) is inside :func:`explanation_mode`.

    Never while a graph is compiled: compiled graphs do not run in explanation mode (and older versions of
    PyTorch cannot compile the lookup).
    """
    return not torch.compiler.is_dynamo_compiling() and _DEPTH.get() > 0


def freeze(factor: Tensor) -> Tensor:
    """Return a dynamic factor as it is, or detached inside :func:`explanation_mode`.

    This is all a layer of one's own needs in order to be explained exactly: wrap every quantity that
    depends on the input and multiplies it, so that the layer reads ``y = freeze(g(x)) * (A x)``.
    """
    return factor.detach() if is_explaining() else factor


@contextmanager
def explanation_mode(model: nn.Module) -> Iterator[None]:
    """Make the gradient of `model` its dynamic linear map.

    Inside the block ``∂ model(x)_k / ∂x = W_k(x)`` with ``model(x) = W(x)·x + b(x)``: the cosine factors of
    B-cos layers, the variances of norms and the softmax of attention are constants (Böhle et al., TPAMI 2024,
    section 3.2). Values do not change, only gradients.

    The mode belongs to the running thread, not to the model: nothing is stored on modules, so it can be
    nested, other threads may train the same model meanwhile, modules may be swapped at any time, and
    leaving the block, by an exception too, leaves nothing behind. Every forward pass of this thread inside
    the block is affected.

    Raises:
        BcosError: `model` normalises with batch statistics or drops activations at random (it is in train
            mode), so that its outputs are no function of one image alone.
    """
    from bcos_core.eager import eager
    from bcos_core.rules import FrozenOperations
    from bcos_core.rules.plugins import load_rules

    check_deterministic(model)
    load_rules()
    token = _DEPTH.set(_DEPTH.get() + 1)
    try:
        if _DEPTH.get() == 1:
            with eager(), FrozenOperations(model):
                yield
        else:
            yield
    finally:
        _DEPTH.reset(token)


def check_deterministic(model: nn.Module) -> None:
    """Refuse a model whose output for one image depends on the batch or on chance.

    Raises:
        BcosError: naming the first such module.
    """
    from bcos_core.norms import uses_batch_statistics

    for name, module in model.named_modules():
        random = module.training and _drop_probability(module) > 0
        if random or uses_batch_statistics(module):
            what = "drops activations at random" if random else "normalises with the statistics of the batch"
            raise BcosError(
                f"cannot explain: module {name or type(module).__name__!r} ({type(module).__name__}) {what}; "
                "call model.eval() first (and keep running statistics in its norms)"
            )


def _drop_probability(module: nn.Module) -> float:
    """Probability with which a module drops activations, or whole branches (torchvision's and timm's names)."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    attribute = {"StochasticDepth": "p", "DropPath": "drop_prob"}.get(type(module).__name__)
    return 0.0 if attribute is None else float(getattr(module, attribute, 0.0) or 0.0)
