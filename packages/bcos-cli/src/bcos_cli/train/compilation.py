"""Compilation of a network, and the network as it was written, which explanations need."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bcos_cli.train.gradient_checkpoint import CheckpointedForward
from bcos_cli.train.repeated_blocks import repeated_blocks
from bcos_core.errors import BcosError


def compile_network(model: nn.Module, how: str, backend: str) -> None:
    """Compile the network, or each of its repeated blocks, in place.

    Raises:
        BcosError: no such backend, or no blocks.
    """
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise BcosError(f"there is no train.compile_backend={backend!r}; choose from {known}")
    for part in [model] if how == "whole" else repeated_blocks(model, "train.compile=regional"):
        part.compile(backend=backend)


def undo(model: nn.Module) -> None:
    """Make the network as it was before it was compiled or its activations were checkpointed."""
    for module in model.modules():
        module._compiled_call_impl = None
        if isinstance(module.__dict__.get("forward"), CheckpointedForward):
            del module.__dict__["forward"]


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Call the network neither compiled, nor checkpointed, nor in mixed precision, as explanations must."""
    kept = [(m, m._compiled_call_impl, m.__dict__.pop("forward", None)) for m in model.modules()]
    undo(model)
    try:
        yield
    finally:
        for module, call, forward in kept:
            module._compiled_call_impl = call
            if forward is not None:
                module.__dict__["forward"] = forward
