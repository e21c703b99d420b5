"""Buffers of a model that is run more often than its user knows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what the block does to buffers, such as averages that a model keeps of what it has seen."""
    before = [
        (m, name, b, b.detach().clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in before:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
