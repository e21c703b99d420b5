"""The processes that were started together, as Accelerate sees them."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import gather

from bcos_cli.processes.device import DEVICE
from bcos_cli.processes.memory import keep_freed_memory
from bcos_core.errors import BcosError

PATIENCE = timedelta(days=7)
"""How long a process waits for the others, which may have far more work left."""


def has_no_accelerator() -> bool:
    """Whether this program computes on the CPU; Accelerate must be told so to join processes there.

    Raises:
        BcosError: the user has named a device that is not there, or one for several processes.
    """
    name = os.environ.get(DEVICE)
    if name is not None:
        _check_device(name)
    return not torch.accelerator.is_available() if name is None else name.startswith("cpu")


def _check_device(name: str) -> None:
    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = str(torch.accelerator.current_accelerator())
        there += [kind, *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
    if name not in there:
        raise BcosError(f"there is no device {name!r}; choose from {', '.join(there)}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and name != "cpu":
        if ":" in name:
            raise BcosError(f"several processes cannot share --device {name}; leave it out, or use one process")
        del os.environ[DEVICE]  # each process has its own


def process_state() -> PartialState:
    """Rank, number of processes and device."""
    on_cpu = has_no_accelerator()
    if on_cpu:
        keep_freed_memory()
    return PartialState(cpu=on_cpu, timeout=PATIENCE)


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    device: torch.device = process_state().device
    return device


def total(number: int, device: torch.device) -> int:
    """Sum of the numbers of all processes, each of which must call this."""
    return int(_gathered(number, device).sum())


def largest(number: int, device: torch.device) -> int:
    """Return the largest of the numbers of all processes, each of which must call this."""
    return int(_gathered(number, device).max())


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true in any process, each of which must call this."""
    return flag if process_state().num_processes == 1 else largest(int(flag), device) > 0


def _gathered(number: int, device: torch.device) -> torch.Tensor:
    gathered: torch.Tensor = gather(torch.tensor([number], device=device))
    return gathered


def leave() -> None:
    """Leave the group of processes, at the end of a command."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
