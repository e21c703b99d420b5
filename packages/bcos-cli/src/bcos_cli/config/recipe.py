"""A recipe: its sections, and the checks of one against another."""

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
        for check in (_schedule, _annealing, _batch, _freezing, _mixing):
            check(self)
        return self


def _schedule(recipe: Recipe) -> None:
    schedule, epochs = recipe.schedule, recipe.train.epochs
    if schedule.warmup_epochs >= epochs and schedule.warmup_epochs > 0:
        raise ValueError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} leaves nothing of "
            f"train.epochs={epochs}; make the warm-up shorter"
        )
    if schedule.warmup_epochs and schedule.warmup_steps:
        raise ValueError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} and schedule.warmup_steps={schedule.warmup_steps} "
            "are both given; choose one"
        )
    if (schedule.name == "step") != bool(schedule.step_epochs):
        raise ValueError("schedule.step_epochs goes with schedule.name=step; give both, or neither")


def _annealing(recipe: Recipe) -> None:
    annealing, epochs = recipe.annealing, recipe.train.epochs
    longest = max(annealing.exponent_epochs, annealing.bias_epochs)
    if longest > epochs:
        raise ValueError(f"annealing takes {longest:g} epochs, more than train.epochs={epochs}; make it shorter")
    if annealing.bias_epochs and recipe.model.options.get("keep_bias"):
        raise ValueError("annealing.bias_epochs removes the biases that model.options.keep_bias=true keeps; choose one")
    if longest and "/" not in (recipe.model.name or ""):
        raise ValueError(
            "annealing is for converted networks (timm/..., torchvision/..., bcosified/...), "
            f"not {recipe.model.name or 'model.start'}"
        )


def _batch(recipe: Recipe) -> None:
    train, data = recipe.train, recipe.data
    if train.accumulate is not None and train.max_batch is not None:
        raise ValueError(
            f"train.accumulate={train.accumulate} and train.max_batch={train.max_batch} are both given; "
            "the first follows from the second: choose one"
        )
    if train.batch_size % (train.accumulate or 1):
        raise ValueError(f"train.accumulate={train.accumulate} must divide train.batch_size={train.batch_size}")
    if data.repeats > 1 and data.balanced:
        raise ValueError("data.repeats and data.balanced are both given; choose one")


def _freezing(recipe: Recipe) -> None:
    if recipe.model.train == "head" and recipe.model.freeze:
        raise ValueError("model.train=head freezes all but the classifier; leave out model.freeze")


def _mixing(recipe: Recipe) -> None:
    taught = recipe.distillation is not None and recipe.distillation.kind == "embedding"
    if taught and (recipe.mixing.mixup or recipe.mixing.cutmix):
        raise ValueError("mixing makes labels that distillation.kind=embedding does not use; leave it out")
