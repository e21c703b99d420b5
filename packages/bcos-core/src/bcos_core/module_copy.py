"""A copy of a network's modules that shares its parameters."""

import copy

from torch import nn


def shared_copy(model: nn.Module) -> nn.Module:
    """Copy of the modules, with the same parameters and buffers: hooks put on it reach no other thread.

    A thread that iterates over the hooks of a module while another adds one to it fails.
    """
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)
