"""A recipe: its sections, and the checks of one against another."""

from collections.abc import Iterator

from pydantic import model_validator

from bcos_cli.config.data import Data
from bcos_cli.config.model import Annealing, Model
from bcos_cli.config.optimization import Ema, GradientClipping, Mixing, Optimizer, Schedule
from bcos_cli.config.section import Section
from bcos_cli.config.train import Distillation, EarlyStopping, Evaluation, Train


class Recipe(Section):
    """All that a training run depends on; ``config.yaml`` in a run's folder holds a complete one."""

    model: Model
    annealing: Annealing = Annealing()
    data: Data = Data()
    mixing: Mixing = Mixing()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clipping: GradientClipping = GradientClipping()
    ema: Ema | None = None
    distillation: Distillation | None = None
    train: Train
    early_stopping: EarlyStopping | None = None
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        for problem in _problems(self):
            raise ValueError(problem)
        return self


def _problems(recipe: Recipe) -> Iterator[str]:
    """Say what in one section contradicts another."""
    model, annealing, data, schedule, train = recipe.model, recipe.annealing, recipe.data, recipe.schedule, recipe.train
    if schedule.warmup_epochs >= train.epochs and schedule.warmup_epochs > 0:
        yield (
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} leaves nothing of "
            f"train.epochs={train.epochs}; make the warm-up shorter, such as -o schedule.warmup_epochs=0"
        )
    if schedule.warmup_epochs and schedule.warmup_steps:
        yield (
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} and schedule.warmup_steps={schedule.warmup_steps} "
            "are both given; choose one"
        )
    if (schedule.name == "step") != bool(schedule.step_epochs):
        yield "schedule.step_epochs goes with schedule.name=step; give both, or neither"
    longest = max(annealing.exponent_epochs, annealing.bias_epochs)
    if longest > train.epochs:
        key = "exponent_epochs" if annealing.exponent_epochs == longest else "bias_epochs"
        yield (
            f"annealing takes {longest:g} epochs, more than train.epochs={train.epochs}; make it shorter, such as "
            f"-o annealing.{key}={train.epochs}"
        )
    if annealing.bias_epochs and model.options.get("keep_bias"):
        yield "annealing.bias_epochs removes the biases that model.options.keep_bias=true keeps; choose one"
    if longest and model.name is not None and ("/" not in model.name or model.options.get("as_is")):
        yield (
            "annealing is for converted networks (timm/..., torchvision/..., bcosified/... without as_is), "
            f"not {model.name}"
        )
    if annealing.exponent_to is not None and model.name is not None:
        yield f"annealing.exponent_to={annealing.exponent_to:g} goes with model.start; give model.options.b instead"
    if train.accumulate is not None and train.max_batch is not None:
        yield (
            f"train.accumulate={train.accumulate} and train.max_batch={train.max_batch} are both given; "
            "the first follows from the second: choose one"
        )
    if train.batch_size % (train.accumulate or 1):
        yield f"train.accumulate={train.accumulate} must divide train.batch_size={train.batch_size}"
    if data.repeats > 1 and data.balanced:
        yield "data.repeats and data.balanced are both given; choose one"
    if model.train == "head" and model.freeze:
        yield "model.train=head freezes all but the classifier; leave out model.freeze"
    takes_labels = recipe.distillation is None or recipe.distillation.kind != "embedding"
    if not takes_labels and (recipe.mixing.mixup or recipe.mixing.cutmix):
        yield "mixing makes labels that distillation.kind=embedding does not use; leave it out"
