"""Optimizers and schedules of a recipe, all of them timm's."""

from collections.abc import Iterator
from typing import Any

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined] # reason: timm exports implicitly
from timm.scheduler import (  # type: ignore[attr-defined] # reason: timm exports implicitly
    CosineLRScheduler,
    MultiStepLRScheduler,
    PolyLRScheduler,
    StepLRScheduler,
)
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from bcos_cli import config
from bcos_core.errors import BcosError


def make_optimizer(model: nn.Module, options: config.Optimizer) -> Optimizer:
    """Return timm's optimizer of that name; weight decay leaves out biases and norms.

    Raises:
        BcosError: nothing to train.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise BcosError("all parameters are frozen; leave some out of model.freeze")
    momentum: dict[str, Any] = {"momentum": options.momentum} if options.name == "sgd" else {}
    name = "momentum" if options.name == "sgd" else options.name  # timm's sgd is Nesterov's
    if options.layer_decay < 1:
        model = _Layered(model)
        momentum["layer_decay"] = options.layer_decay
    optimizer: Optimizer = create_optimizer_v2(
        model, opt=name, lr=options.lr, weight_decay=options.weight_decay, **momentum
    )
    return optimizer


class _Layered(nn.Module):
    """A network that tells timm where its classifier is, so that it can group the layers below."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters_of = model
        find = getattr(model, "get_classifier", None)
        classifier = find() if callable(find) else None
        if not isinstance(classifier, nn.Module):
            raise BcosError(
                "optimizer.layer_decay needs a network with get_classifier(), which this one does not have; "
                "leave it out"
            )
        self.pretrained_cfg = {
            "classifier": next(name for name, module in model.named_modules() if module is classifier)
        }

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of the network, under its own names."""
        return self._parameters_of.named_parameters(*arguments, **options)


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
    end = options.final_factor * lr
    if options.name == "cosine":
        return CosineLRScheduler(optimizer, t_initial=total - warmup, lr_min=end, warmup_prefix=True, **common)
    if options.name == "linear":
        return PolyLRScheduler(optimizer, t_initial=total - warmup, power=1.0, lr_min=end, warmup_prefix=True, **common)
    if options.name == "step":
        steps = [epoch * steps_per_epoch + 1 for epoch in options.step_epochs]  # timm looks one step ahead
        return MultiStepLRScheduler(
            optimizer, decay_t=steps, decay_rate=options.step_factor, warmup_prefix=False, **common
        )
    return StepLRScheduler(optimizer, decay_t=1, decay_rate=1.0, **common)
