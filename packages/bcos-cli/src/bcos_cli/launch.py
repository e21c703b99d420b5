"""Starting several processes of the program on this machine, as ``torchrun`` does."""

import logging
import os
import sys
import uuid

import typer

from bcos_cli.main import given_arguments


def launch(num_processes: int) -> None:
    """Run the given command again, in `num_processes` processes that Accelerate joins.

    Raises:
        typer.Exit: with the status of the first process that failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the process itself says what is wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "bcos_cli", *_without("--num-processes"))
    except ChildFailedError as failed:
        raise typer.Exit(max(1, failed.get_first_failure()[1].exitcode)) from failed


def _without(option: str) -> list[str]:
    """Return the given arguments without an option and its value."""
    kept: list[str] = []
    skip = False
    for argument in given_arguments.get():
        if not skip and argument != option and not argument.startswith(f"{option}="):
            kept.append(argument)
        skip = argument == option
    return kept
