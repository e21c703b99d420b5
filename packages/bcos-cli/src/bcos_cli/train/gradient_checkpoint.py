"""Gradient checkpointing: activations of blocks are computed again in the backward pass, to save memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from bcos_cli.train.buffers import BufferSnapshot
from bcos_cli.train.repeated_blocks import repeated_blocks
from bcos_core.norms.batch import RunningNorm


def checkpoint_activations(model: nn.Module) -> None:
    """Compute the activations of repeated blocks again in the backward pass; running statistics change once.

    Raises:
        BcosError: no blocks.
    """
    for block in repeated_blocks(model, "train.gradient_checkpointing"):
        block.forward = CheckpointedForward(block)


class CheckpointedForward:
    """The forward pass of a block, whose activations are not kept."""

    def __init__(self, block: nn.Module) -> None:
        self._forward = block.forward
        self._norms = [m for m in block.modules() if isinstance(m, RunningNorm | _BatchNorm)]
        self._block = block

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the block's own forward pass, in a checkpoint if a backward pass will follow."""
        if not (self._block.training and torch.is_grad_enabled()):
            return self._forward(*arguments, **options)
        if torch.compiler.is_compiling():  # it sees that statistics are not needed again, and takes no such contexts
            return checkpoint(self._forward, *arguments, use_reentrant=False, **options)
        return checkpoint(self._forward, *arguments, use_reentrant=False, context_fn=self._contexts, **options)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._unchanged_statistics()

    @contextmanager
    def _unchanged_statistics(self) -> Iterator[None]:
        before = BufferSnapshot(*self._norms)
        try:
            yield
        finally:  # torch ends the second pass with an exception, as soon as it has what it needs
            before.restore()
