"""Memory that a process keeps for the next tensors."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import mmap, resource
import torch
from bcos_cli.processes.memory import keep_freed_memory
keep_freed_memory()
for _ in range(2):  # the heap grows to what it needs
    [torch.ones(16 << 20) for _ in range(40)]  # 2.5 GiB in blocks of 64 MiB, as much as a training step frees
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
[torch.ones(16 << 20) for _ in range(40)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * mmap.PAGESIZE >> 20)
"""


@pytest.mark.skipif(not hasattr(os, "confstr") or not str(os.confstr("CS_GNU_LIBC_VERSION")), reason="for glibc")
def test_memory_of_tensors_is_not_fetched_anew():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}

    def megabytes_fetched(**more):
        command = [sys.executable, "-c", PROGRAM]
        return int(subprocess.run(command, env=environment | more, check=True, capture_output=True, timeout=120).stdout)

    assert megabytes_fetched() < 256
    assert megabytes_fetched(MALLOC_TOP_PAD_="131072") >= 2048  # what the user has set stays
