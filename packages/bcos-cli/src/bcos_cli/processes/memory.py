"""Memory of networks that compute on a CPU. Imports no torch."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's ``mallopt``."""


def keep_freed_memory() -> None:
    """Let this process keep the memory of tensors that are gone, for those that come.

    glibc gives large blocks back to the kernel at once and fetches them anew, page by page and cleared: a training step
    then spends much of its time in the kernel. Blocks below 1 GiB are kept, however many there are. What the user has
    set for glibc stays.
    """
    own = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or own:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        # -1: never; the largest that an int can say, 2 GiB, is less than a step frees
        for name, size in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20)):
            mallopt(name, size)
