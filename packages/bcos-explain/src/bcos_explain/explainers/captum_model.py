"""A copy of a network that Captum may put hooks on."""

import copy
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core.module_copy import shared_copy

_filters = threading.RLock()


def hookable(model: nn.Module) -> nn.Module:
    """Copy whose activations do not work in place, since hooks on inputs and outputs cannot handle that."""
    copied = shared_copy(model)
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment] # reason: an attribute of activations
    return copied


def one_module_a_call(model: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> Tensor:
    """Give every call of a module of some `kinds` a module of its own, in place.

    Many networks call one ReLU in several places, which Captum's DeepLIFT cannot tell apart.

    Args:
        kinds: modules without parameters.

    Returns:
        The network's output for x.
    """
    calls: Counter[nn.Module] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda m, _: calls.update([m]))
        for module in model.modules()
        if type(module) in kinds
    ]
    with torch.no_grad():
        output: Tensor = model(x)
    for handle in handles:
        handle.remove()
    replaced = {module: _InTurn(module, count) for module, count in calls.items() if count > 1}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replaced:
                parent._modules[name] = replaced[child]
    return output


class _InTurn(nn.Module):
    """Copies of a module, called one after the other in every forward pass."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(count))
        self.calls = 0

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        return self.copies[(self.calls - 1) % len(self.copies)](*args)


@contextmanager
def without_captums_warnings() -> Iterator[None]:
    """Drop the notices that Captum sets hooks, which it does on a copy here.

    Python's filters belong to the process: one thread at a time.
    """
    with _filters, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks", UserWarning)
        warnings.filterwarnings("ignore", r"\s*Setting forward, backward hooks", UserWarning)
        yield
