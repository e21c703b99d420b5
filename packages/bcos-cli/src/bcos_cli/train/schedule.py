"""The learning-rate schedule of a recipe, one of timm's."""

from typing import Any

from timm.scheduler import (  # type: ignore[attr-defined] # reason: timm exports implicitly
    CosineLRScheduler,
    MultiStepLRScheduler,
    PolyLRScheduler,
    StepLRScheduler,
)
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from bcos_cli import config
from bcos_core.errors import BcosError


def make_schedule(
    optimizer: Optimizer, options: config.Schedule, lr: float, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """Return a schedule over steps: linear warm-up, then the decay that `options` name.

    Raises:
        BcosError: a warm-up longer than the training.
    """
    total = epochs * steps_per_epoch
    warmup = options.warmup(steps_per_epoch)
    if warmup >= total and warmup:
        raise BcosError(f"a warm-up of {warmup} steps leaves nothing of {total}; make it shorter")
    common: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": options.warmup_factor * lr,
        "t_in_epochs": False,
    }
    decay: dict[str, Any] = {"t_initial": total - warmup, "lr_min": options.final_factor * lr, "warmup_prefix": True}
    if options.name == "cosine":
        return CosineLRScheduler(optimizer, **decay, **common)
    if options.name == "linear":
        return PolyLRScheduler(optimizer, power=1.0, **decay, **common)
    if options.name == "step":
        steps = [epoch * steps_per_epoch + 1 for epoch in options.step_epochs]  # timm looks one step ahead
        return MultiStepLRScheduler(
            optimizer, decay_t=steps, decay_rate=options.step_factor, warmup_prefix=False, **common
        )
    return StepLRScheduler(optimizer, decay_t=1, decay_rate=1.0, **common)
