"""Several processes of the program on this machine, started as ``torchrun`` does."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import fields
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from bcos_cli.processes import given_arguments
from bcos_cli.processes.parent import LAUNCHER
from bcos_cli.processes.signals import EXIT_STATUS, SIGNALS
from bcos_core.errors import BcosError

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_PATIENCE = 600
"""Seconds that the other processes have to end once one has ended with an error."""


def launch(num_processes: int) -> None:
    """Run the given command again, in `num_processes` processes that Accelerate joins.

    Raises:
        typer.Exit: with the status of the first process that failed, or that of a run that was asked to end.
        BcosError: a process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # each process reports its own error
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    for number in SIGNALS:
        signal.signal(number, _pass_on)
    interrupts = signal.getsignal(signal.SIGINT)
    # -P: as in this process, modules in the current folder are not imported
    command = ("-P", "-m", "bcos_cli", *without(given_arguments.get(), "--num-processes"))
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        elastic_launch(_config(num_processes), sys.executable)(*command)
    except ChildFailedError as failed:
        first = failed.get_first_failure()[1]
        if -first.exitcode in SIGNALS:  # killed before it listened for them: nothing is lost
            raise typer.Exit(EXIT_STATUS) from failed
        if first.exitcode < 0:
            name = signal.Signals(-first.exitcode).name
            raise BcosError(
                f"process {first.local_rank} was killed by {name}, and the others were ended; if memory was short, use "
                "a smaller train.max_batch or fewer data.workers; bcos train --resume continues a run"
            ) from failed
        raise typer.Exit(max(1, first.exitcode)) from failed
    except SignalException as ended:
        status = EXIT_STATUS if ended.sigval in SIGNALS else 128 + ended.sigval
        raise typer.Exit(status) from ended
    finally:
        del os.environ[LAUNCHER]
        signal.signal(signal.SIGINT, interrupts)  # torch has replaced it


def _config(num_processes: int) -> "LaunchConfig":
    from torch.distributed.launcher.api import LaunchConfig

    known = {field.name for field in fields(LaunchConfig)}  # older versions of torch lack some
    passed: dict[str, Any] = {"signals_to_handle": "SIGINT,SIGHUP,SIGQUIT", "shutdown_timeout": _PATIENCE}
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
        **{key: value for key, value in passed.items() if key in known},
    )


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """Pass a signal on to the processes: they write a checkpoint, and their exit status becomes that of the command."""
    import psutil
    from torch.distributed.elastic.multiprocessing.api import SignalException

    children = psutil.Process().children()
    for child in children:
        child.send_signal(number)
    if not children:
        raise SignalException("ended before there were processes", signal.Signals(number))


def without(arguments: Sequence[str], option: str) -> list[str]:
    """Return arguments without an option and its value."""
    kept: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == option:
            next(remaining, None)
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
