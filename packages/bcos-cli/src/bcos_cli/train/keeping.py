"""The state of a run into a checkpoint, and back."""

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from bcos_cli.train import state
from bcos_cli.train.checkpoint import EMA, MODEL, Progress, load_progress, load_tensors
from bcos_cli.train.setup import Setup
from bcos_core.errors import BcosError


def save(setup: Setup, progress: Progress, loss: float) -> Path | None:
    """Write a checkpoint, all processes together; in the main one return where it is.

    Args:
        setup: of the run.
        progress: how far it is.
        loss: of this process, summed over the batches of the epoch so far.

    Raises:
        BcosError: it cannot be written; the one before is still there.
    """
    progress.losses = gather_object([loss])
    weights = {MODEL: state.weights_of(setup.network if not setup.sharded else setup.model, setup.sharded)}
    if setup.ema is not None:
        weights[EMA] = dict(setup.ema.module.state_dict())
    scaler = setup.accelerator.scaler
    others: dict[str, Any] = {
        "optimizer": state.optimizer_state(setup.model, setup.optimizer.optimizer, setup.sharded),
        "scaler": None if scaler is None else scaler.state_dict(),
        "world": setup.accelerator.num_processes,
        "data": setup.index.fingerprint,
    }
    path = None
    if setup.accelerator.is_main_process:
        path = setup.checkpoints.save(progress, weights, others, setup.trained.metadata())
    setup.accelerator.wait_for_everyone()
    return path


def restore(setup: Setup) -> Progress:
    """Go on from the last checkpoint, or from the start where there is none; every process reads the folder.

    Raises:
        BcosError: it is damaged, or of a run on other data.
    """
    accelerator = setup.accelerator
    if accelerator.is_main_process:
        setup.checkpoints.clean()
    accelerator.wait_for_everyone()
    progress = Progress()
    last = setup.checkpoints.last()
    if last is not None:
        progress, loaded = load_progress(last)
        if loaded["data"] != setup.index.fingerprint:
            raise BcosError(
                f"the shards at {setup.recipe.data.path!r} are not those the run was started with; "
                "give those, or start a new run with --out"
            )
        _load(setup, last, loaded, progress)
        _for_processes(setup, progress, loaded["world"])
    if accelerator.is_main_process:
        setup.history.keep(progress.epoch + (progress.batch >= len(setup.batches)))
    setup.history.share()
    return progress


def _load(setup: Setup, checkpoint: Path, loaded: dict[str, Any], progress: Progress) -> None:
    model = setup.model if setup.sharded else setup.network
    state.load_weights_into(model, load_tensors(checkpoint, MODEL), setup.sharded)
    if setup.ema is not None:
        state.load_weights_into(setup.ema.module, load_tensors(checkpoint, EMA), False)
    state.load_optimizer_state(setup.model, setup.optimizer.optimizer, loaded["optimizer"], setup.sharded)
    if loaded["scaler"] is not None and setup.accelerator.scaler is not None:
        setup.accelerator.scaler.load_state_dict(loaded["scaler"])
    setup.schedule.step_update(progress.step)
    for network in setup.networks:
        setup.annealer.set(network, progress.step)


def _for_processes(setup: Setup, progress: Progress, before: int) -> None:
    """Go on with another number of processes than before, if it is another: correctly, and not identically."""
    now = setup.accelerator.num_processes
    if before == now:
        return
    batches = progress.batch
    progress.batch = (progress.step - progress.epoch * setup.steps_per_epoch) * setup.plan.accumulate
    scale = progress.batch / batches if batches else 1.0  # they may be of another size
    progress.losses = [sum(progress.losses) / before * scale] * now
    setup.accelerator.print(
        f"resumed with {now} processes instead of {before}: images come in another order from here on, so that the "
        "results will not be identical to those of an uninterrupted run"
    )
