"""Losses, optimizers and schedules of a recipe."""

from typing import Any

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined] # reason: timm exports implicitly
from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import nn
from torch.optim import Optimizer

from bcos_cli.config import Loss, OptimizerConfig, Schedule
from bcos_core.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCELoss


def make_loss(name: Loss, *, evaluation: bool = False) -> nn.Module:
    """Return the loss by name; for evaluation, binary cross-entropies use plain targets."""
    if name == "cross_entropy":
        return nn.CrossEntropyLoss()
    if name == "uniform_off_label_bce" and not evaluation:
        return UniformOffLabelsBCELoss()
    return BinaryCrossEntropyLoss()


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Return timm's optimizer of that name; weight decay leaves out biases and norms."""
    momentum: dict[str, Any] = {"momentum": config.momentum} if config.name == "sgd" else {}
    name = "momentum" if config.name == "sgd" else config.name  # timm's sgd is Nesterov's
    return create_optimizer_v2(model, opt=name, lr=config.lr, weight_decay=config.weight_decay, **momentum)


def make_schedule(
    optimizer: Optimizer, config: Schedule, lr: float, epochs: int, steps_per_epoch: int
) -> CosineLRScheduler:
    """Return a schedule over steps: linear warm-up, then a cosine to the end of the last epoch."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return CosineLRScheduler(
        optimizer,
        t_initial=epochs * steps_per_epoch - warmup,
        lr_min=config.final_factor * lr,
        warmup_t=warmup,
        warmup_prefix=True,
        warmup_lr_init=config.warmup_factor * lr,
        t_in_epochs=False,
    )
