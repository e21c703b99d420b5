"""Settings that belong to the whole process, where several threads may ask for one at a time. Imports no torch."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


class ProcessSetting:
    """A setting that the first thread to enter makes, and that the last one to leave undoes.

    >>> loud = ProcessSetting(lambda undo: undo.callback(print, "quiet again"))
    >>> with loud.on(), loud.on():
    ...     print("loud")
    loud
    quiet again
    """

    def __init__(self, make: Callable[[ExitStack], object]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users = 0
        self._undo = ExitStack()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have the setting inside the block."""
        with self._lock:
            if self._users == 0:
                with ExitStack() as undo:  # what it has set before it fails is undone
                    self._make(undo)
                    self._undo = undo.pop_all()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._undo.close()
