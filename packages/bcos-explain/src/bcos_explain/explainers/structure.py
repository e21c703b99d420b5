"""A copy of a network that Captum may put hooks on."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from bcos_core.structure import shared_copy

_filters = threading.RLock()


def hookable(model: nn.Module) -> nn.Module:
    """Copy whose activations do not work in place, which hooks on their inputs and outputs cannot bear."""
    copied = shared_copy(model)
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment] # reason: an attribute of activations
    return copied


@contextmanager
def without_captums_warnings() -> Iterator[None]:
    """Drop the notices that Captum sets hooks, which it does on a copy here.

    Python's filters belong to the process: one thread at a time.
    """
    with _filters, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks", UserWarning)
        warnings.filterwarnings("ignore", r"\s*Setting forward, backward hooks", UserWarning)
        yield
