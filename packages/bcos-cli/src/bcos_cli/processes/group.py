"""The processes that were started together, as Accelerate sees them."""

from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import gather

PATIENCE = timedelta(days=7)
"""How long a process waits for the others, which may have far more work left."""


def has_no_accelerator() -> bool:
    """Whether this machine computes on the CPU; Accelerate must be told so to join processes there."""
    return not torch.accelerator.is_available()


def process_state() -> PartialState:
    """Rank, number of processes and device."""
    return PartialState(cpu=has_no_accelerator(), timeout=PATIENCE)


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
