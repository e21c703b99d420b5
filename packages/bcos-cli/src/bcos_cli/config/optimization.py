"""Sections ``optimizer``, ``schedule``, ``mixing``, ``clipping`` and ``ema`` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from bcos_cli.config.section import NonNegative, Positive, Probability, Rate, Section


class Optimizer(Section):
    """The optimizer of the weights."""

    name: Literal["adam", "adamw", "sgd", "lamb"] = "adam"
    lr: Rate = 1e-3
    weight_decay: NonNegative = 0.0
    """Weight decay of all but biases and norms."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd (without Nesterov's correction)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each group of layers to the one before it (timm's groups)."""


class Schedule(Section):
    """Learning rate over the steps: linear warm-up, then its decay."""

    name: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Length of the warm-up in steps, instead of in epochs."""
    warmup_factor: Probability = 0.01
    """Share of the learning rate at which the warm-up starts."""
    final_factor: Probability = 0.0
    """Share of the learning rate at which cosine and linear end."""
    step_epochs: list[Positive] = []
    """Epochs after which ``step`` multiplies the learning rate by ``step_factor``."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def warmup(self, steps_per_epoch: int) -> int:
        """Count the steps of the warm-up."""
        return self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)


class Mixing(Section):
    """Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019), timm's: one of the two for a batch, by chance."""

    mixup: NonNegative = 0.0
    """Alpha of the beta distribution; 0 for none."""
    cutmix: NonNegative = 0.0
    """Alpha of the beta distribution; 0 for none."""
    probability: Probability = 1.0
    """Probability that a batch is mixed."""


class GradientClipping(Section):
    """Bounds on the gradient."""

    norm: Rate | None = None
    """Largest norm over all parameters."""
    adaptive: Rate | None = None
    """Largest ratio of a unit's gradient to its weight: adaptive gradient clipping (Brock et al., 2021), timm's."""
    adaptive_eps: Rate = 1e-3
    """Smallest norm that the weight of a unit is taken to have."""


class Ema(Section):
    """Exponential moving average of the weights, timm's; it is what is scored, kept as best and saved."""

    decay: Annotated[float, Field(gt=0, lt=1)]
    """Share of the average that an update keeps; until the end of the warm-up it keeps nothing."""
    every: Positive = 1
    """Steps between updates."""
    scaled: bool = False
    """Scale the decay as torchvision's recipes do: ``1 - decay`` is for one image and one epoch, and multiplied by
    ``train.batch_size · every / train.epochs``, up to 1."""
