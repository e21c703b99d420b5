"""Explanation mode: the dynamic factors of a network become constants, so that its gradient is ``W(x)``."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from bcos_core.errors import BcosError
from bcos_core.mode_state import enter
from bcos_core.norms.batch import uses_batch_statistics
from bcos_core.precision import full_float32
from bcos_core.process_setting import ProcessSetting
from bcos_core.rules.dispatch import RuleDispatch
from bcos_core.rules.table import load_rules

eager_mode = ProcessSetting(lambda undo: undo.enter_context(torch.compiler.set_stance("force_eager"))).on
"""Inside the block nothing that :func:`torch.compile` wrapped runs compiled: rules apply to single operations."""


@contextmanager
def explanation_mode(model: nn.Module) -> Iterator[None]:
    """Make the gradient of `model` its dynamic linear map.

    Inside the block ``∂ model(x)_k / ∂x = W_k(x)`` with ``model(x) = W(x)·x + b(x)``: the cosine factors of
    B-cos layers, the variances of norms and the softmax of attention are constants (Böhle et al., TPAMI 2024,
    section 3.2). Values do not change, only gradients; on a GPU they are computed without TF32.

    The mode belongs to the running thread, not to the model: nothing is stored on modules, so it can be
    nested, other threads may train the same model meanwhile, modules may be swapped at any time, and
    leaving the block, by an exception too, leaves nothing behind. Every forward pass of this thread inside
    the block is affected.

    Raises:
        BcosError: `model` normalises with batch statistics or drops activations at random (it is in train
            mode), so that its outputs are not a function of one image alone.
    """
    check_deterministic(model)
    load_rules()
    with enter() as is_outermost, ExitStack() as stack:
        if is_outermost:
            stack.enter_context(eager_mode())
            stack.enter_context(full_float32())
            stack.enter_context(RuleDispatch(model))
        yield


def check_deterministic(model: nn.Module) -> None:
    """Refuse a model whose output for one image depends on the batch or on chance, naming the first such module."""
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
