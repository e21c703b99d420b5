"""Starting several processes of the program on this machine, as ``torchrun`` does."""

import logging
import os
import sys
import uuid

import typer

from bcos_core.errors import BcosError


def without_option(name: str) -> list[str]:
    """Return the arguments after the command's name, without the option `name` and its value."""
    given = sys.argv[2:]
    kept = []
    skip = False
    for argument in given:
        if skip or argument.startswith(f"{name}="):
            skip = False
        elif argument == name:
            skip = True
        else:
            kept.append(argument)
    return kept


def launch(num_processes: int, arguments: list[str]) -> None:
    """Run ``python -m bcos_cli ARGUMENTS`` in `num_processes` processes that Accelerate joins.

    Raises:
        typer.Exit: with the status of the first process that failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if num_processes < 1:
        raise BcosError(f"--num-processes must be at least 1, got {num_processes}")
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
        elastic_launch(config, sys.executable)("-m", "bcos_cli", *arguments)
    except ChildFailedError as failed:
        raise typer.Exit(max(1, failed.get_first_failure()[1].exitcode)) from failed
