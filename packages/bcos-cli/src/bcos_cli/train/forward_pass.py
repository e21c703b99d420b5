"""How a network's forward pass is run: compiled, with activations computed again, or as it was written."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from bcos_core.errors import BcosError, shortened
from bcos_core.norms.batch import RunningNorm


def repeated_blocks(model: nn.Module, needed_by: str) -> list[nn.Module]:
    """Return the outermost blocks that a network repeats: members of a list or sequence whose class occurs again.

    Each can be compiled or checkpointed alone. Layers without layers of their own do not count as blocks.

    Raises:
        BcosError: there are none.
    """
    members = [
        child
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        for child in module.children()
        if any(True for _ in child.children()) and not isinstance(child, nn.Sequential | nn.ModuleList)
    ]
    kinds = Counter(type(block) for block in members)
    blocks = [block for block in members if kinds[type(block)] > 1]
    inner = {id(module) for block in blocks for module in block.modules() if module is not block}
    if not blocks:
        raise BcosError(f"{needed_by} needs a network with repeated blocks, found none; leave it out")
    return [block for block in dict.fromkeys(blocks) if id(block) not in inner]


def compile_network(model: nn.Module, how: str, backend: str) -> None:
    """Compile the network, or each of its repeated blocks, in place; refuse an unknown backend, or no blocks."""
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise BcosError(f"there is no train.compile_backend={backend!r}; choose from {known}")
    for part in [model] if how == "whole" else repeated_blocks(model, "train.compile=regional"):
        part.compile(backend=backend)


@contextmanager
def compiling(how: str) -> Iterator[None]:
    """Say in one line what PyTorch's compiler fails at inside the block."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as reason:
        what = shortened(" ".join(str(reason).split()), 200)  # the first line is that of a backend
        raise BcosError(
            f"train.compile={how}: PyTorch cannot compile this network here: {what}; train without "
            "(-o train.compile=no)"
        ) from reason


def checkpoint_activations(model: nn.Module) -> None:
    """Compute activations of repeated blocks again in the backward pass, to save memory; refuse to find no blocks."""
    for block in repeated_blocks(model, "train.gradient_checkpointing"):
        block.forward = CheckpointedForward(block)


class CheckpointedForward:
    """The forward pass of a block, whose activations are not kept; running statistics change once."""

    def __init__(self, block: nn.Module) -> None:
        self._forward = block.forward
        self._norms = [m for m in block.modules() if isinstance(m, RunningNorm | _BatchNorm)]
        self._block = block

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the block's own forward pass, in a checkpoint if a backward pass will follow."""
        if not (self._block.training and torch.is_grad_enabled()):
            return self._forward(*arguments, **options)
        if not torch.compiler.is_compiling():  # which sees that statistics are not needed again, and takes no contexts
            options["context_fn"] = lambda: (nullcontext(), self._unchanged_statistics())
        return checkpoint(self._forward, *arguments, use_reentrant=False, **options)

    @contextmanager
    def _unchanged_statistics(self) -> Iterator[None]:
        before = BufferSnapshot(*self._norms)
        try:
            yield
        finally:  # torch ends the second pass with an exception, as soon as it has what it needs
            before.restore()


class BufferSnapshot:
    """The values of networks' buffers, such as running statistics, at one moment."""

    def __init__(self, *modules: nn.Module) -> None:
        self._values = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for buffer, value in self._values:
            buffer.copy_(value)


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
