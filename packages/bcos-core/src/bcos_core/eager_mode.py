"""Running compiled models eagerly, since compiled code cannot be rewritten operation by operation."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_lock = threading.Lock()
_users = 0
_stance = ExitStack()


@contextmanager
def eager_mode() -> Iterator[None]:
    """Inside the block nothing that :func:`torch.compile` wrapped runs compiled; its values are the same.

    PyTorch holds this setting for the whole process: the first thread to enter changes it, the last one to
    leave restores it.
    """
    global _users
    with _lock:
        if _users == 0:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _stance.close()
