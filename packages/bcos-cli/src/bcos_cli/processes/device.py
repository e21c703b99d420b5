"""The device that a user names, for Accelerate to take. Imports no torch."""

import os
from typing import Annotated

import typer

DEVICE = "ACCELERATE_TORCH_DEVICE"
"""Variable in which Accelerate, in processes that are started from here too, finds the device."""


def use_device(name: str | None) -> None:
    """Let the running command compute on a device, such as ``cpu`` or ``cuda:1``; None for an accelerator, if any."""
    if name is not None:
        os.environ[DEVICE] = name


Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, mps, xpu, ...; by default an accelerator, if there is one.",
    ),
]
"""The option of every command that computes, which hands it to :func:`use_device`."""
