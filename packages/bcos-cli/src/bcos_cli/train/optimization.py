"""A recipe's optimizer, learning-rate schedule, mixing, clipping and moving average, which are timm's."""

from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from timm.data import Mixup  # type: ignore[attr-defined] # reason: timm exports implicitly
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined] # reason: timm exports implicitly
from timm.scheduler import (  # type: ignore[attr-defined] # reason: timm exports implicitly
    CosineLRScheduler,
    MultiStepLRScheduler,
    PolyLRScheduler,
    StepLRScheduler,
)
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, adaptive_clip_grad  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import Tensor, nn
from torch.optim import Optimizer

from bcos_cli import config
from bcos_cli.train.forward_pass import as_written
from bcos_cli.train.model import classifier_of
from bcos_core.errors import BcosError


def make_optimizer(model: nn.Module, options: config.Optimizer) -> Optimizer:
    """Return timm's optimizer of that name; weight decay leaves out biases and norms. Refuse to train nothing."""
    if not any(p.requires_grad for p in model.parameters()):
        raise BcosError("all parameters are frozen; leave some out of model.freeze")
    more: dict[str, Any] = {"momentum": options.momentum} if options.name == "sgd" else {}
    name = "momentum" if options.name == "sgd" else options.name  # timm's sgd is Nesterov's
    if options.layer_decay < 1:
        model = _LayerGroups(model)
        more["layer_decay"] = options.layer_decay
    made: Optimizer = create_optimizer_v2(model, opt=name, lr=options.lr, weight_decay=options.weight_decay, **more)
    return made


class _LayerGroups(nn.Module):
    """A network that tells timm where its classifier is, so that it can group the layers below."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters_of = model
        self.pretrained_cfg = {"classifier": classifier_of(model, "optimizer.layer_decay")[0]}

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return self._parameters_of.named_parameters(*arguments, **options)  # under its own names


def make_schedule(
    optimizer: Optimizer, options: config.Schedule, lr: float, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """Return a schedule over steps: linear warm-up, then the decay that `options` name; refuse a warm-up of all."""
    total = epochs * steps_per_epoch
    warmup = options.warmup(steps_per_epoch)
    if warmup >= total and warmup:
        key = "warmup_steps" if options.warmup_steps else "warmup_epochs"
        raise BcosError(
            f"a warm-up of {warmup} steps leaves nothing of {total}; make it shorter, such as -o schedule.{key}=0"
        )
    common: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": options.warmup_factor * lr, "t_in_epochs": False}
    decay: dict[str, Any] = {"t_initial": total - warmup, "lr_min": options.final_factor * lr, "warmup_prefix": True}
    if options.name == "cosine":
        return CosineLRScheduler(optimizer, **decay, **common)
    if options.name == "linear":
        return PolyLRScheduler(optimizer, power=1.0, **decay, **common)
    if options.name == "step":
        steps = [epoch * steps_per_epoch + 1 for epoch in options.step_epochs]  # timm looks one step ahead
        common |= {"decay_rate": options.step_factor, "warmup_prefix": False}
        return MultiStepLRScheduler(optimizer, decay_t=steps, **common)
    return StepLRScheduler(optimizer, decay_t=1, decay_rate=1.0, **common)


def make_mixup(options: config.Mixing, num_classes: int, multi_label: bool) -> Mixup | None:
    """Return timm's mixup and CutMix of the images and labels of a batch, if the recipe asks for either."""
    if not options.mixup and not options.cutmix:
        return None
    kinds = {"num_classes": num_classes, "multi_label": multi_label, "label_smoothing": 0.0}  # losses smooth labels
    return Mixup(options.mixup, options.cutmix, prob=options.probability, **kinds)  # type: ignore[no-untyped-call] # reason: timm's


def clip_gradients(
    accelerator: Accelerator, model: nn.Module, options: config.GradientClipping, *, measure: bool = False
) -> Tensor | None:
    """Clip the gradients of `model` as the recipe says: by the norm over all parameters, and adaptively for each unit.

    Returns:
        Their norm before, where it is clipped or `measure` asks for it.
    """
    norm: Tensor | None = None
    if options.norm is not None or measure:
        norm = accelerator.clip_grad_norm_(model.parameters(), options.norm or float("inf"))
    if options.adaptive is not None:
        if options.norm is None:  # clip_grad_norm_ unscales them too, and a scaler allows that once a step
            accelerator.unscale_gradients()
        trained = [p for p in model.parameters() if p.requires_grad]
        adaptive_clip_grad(trained, options.adaptive, options.adaptive_eps)  # type: ignore[no-untyped-call] # reason: timm's
    return norm


def make_average(network: nn.Module, ema: config.Ema | None, train: config.Train, warmup: int) -> ModelEmaV3 | None:
    """Return timm's moving average of the weights, if the recipe asks for one; for `warmup` steps it is a copy."""
    if ema is None:
        return None
    with as_written(network):
        return ModelEmaV3(network, decay=decay_of(ema, train), update_after_step=warmup)


def decay_of(ema: config.Ema, train: config.Train) -> float:
    """Share of the average of weights that an update keeps."""
    if not ema.scaled:
        return ema.decay
    return 1 - min((1 - ema.decay) * train.batch_size * ema.every / train.epochs, 1)
