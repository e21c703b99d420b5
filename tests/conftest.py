"""What all tests have in common."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import pytest

LARGE = 3 << 30
"""Bytes of memory from which a process of tests gives back what it does not use."""


@pytest.fixture(autouse=True)
def memory():
    """Networks of every size come and go in one process, and glibc keeps the memory of those that are gone."""
    yield
    if not sys.platform.startswith("linux"):
        return
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if resident > LARGE:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
