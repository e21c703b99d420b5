"""Accelerate's part of a run: processes, device, mixed precision and trackers."""

import warnings
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, LoggerType, ProjectConfiguration

from bcos_cli.config import Recipe, Train
from bcos_cli.config.comparison import flat
from bcos_cli.processes.group import PATIENCE, has_no_accelerator
from bcos_cli.train.batch_size import plan_batches
from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion


def make_accelerator(train: Train, out: Path) -> Accelerator:
    """Join the processes that were started together; refuse a precision or a tracker that is not there."""
    known = [str(kind) for kind in LoggerType if kind != LoggerType.ALL]
    for name in train.trackers:
        if name not in known:
            raise BcosError(f"there is no train.trackers={name!r}; {suggestion(name, known)}")
    on_cpu = has_no_accelerator()
    if train.precision == "fp16" and on_cpu:  # Accelerate would train in float32 without a word
        raise BcosError("train.precision=fp16 needs a GPU, and this is a CPU; use bf16 or no")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no supported trackers")  # the error below names it
            accelerator = Accelerator(
                cpu=on_cpu,
                mixed_precision="no" if train.precision == "float64" else train.precision,
                log_with=list(train.trackers) or None,
                project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tensorboard")),
                kwargs_handlers=[
                    InitProcessGroupKwargs(timeout=PATIENCE),
                    # DDP rebuilds its buckets after the first step, and so the order in which CPUs add gradients: a
                    # resumed run would differ in the last bit. It keeps them where it looks for unused parameters.
                    DistributedDataParallelKwargs(find_unused_parameters=on_cpu),
                ],
            )
    except ValueError as reason:
        raise BcosError(
            f"train.precision={train.precision} does not work on this device: {reason}; use another or no"
        ) from reason
    found = {str(getattr(name, "value", name)) for name in accelerator.log_with}
    if missing := [name for name in train.trackers if name not in found]:
        raise BcosError(f"train.trackers={missing[0]} is not installed; install it, or leave it out")
    plan_batches(train, accelerator.num_processes)  # refuses a batch that the processes cannot share
    return accelerator


def start_trackers(accelerator: Accelerator, recipe: Recipe) -> None:
    """Open the trackers, and tell each the recipe."""
    values = flat(recipe.model_dump(mode="json"))
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
    accelerator.init_trackers("bcos", config=plain)
