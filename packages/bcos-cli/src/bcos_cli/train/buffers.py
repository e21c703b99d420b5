"""Buffers of a network, such as running statistics: kept aside, put back, shared between processes."""

from collections.abc import Iterable

import torch
from accelerate.utils import broadcast
from torch import nn


class BufferSnapshot:
    """The values of a network's buffers at one moment."""

    def __init__(self, *modules: nn.Module) -> None:
        self._values = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]

    def restore(self) -> None:
        """Put them back."""
        with torch.no_grad():
            for buffer, value in self._values:
                buffer.copy_(value)


def share_buffers(networks: Iterable[nn.Module]) -> None:
    """Give every process the running statistics of the main one, which are those that checkpoints hold."""
    for network in networks:
        for buffer in network.buffers():
            broadcast(buffer)
