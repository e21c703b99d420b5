"""From a converted network with B = 1 and biases to a B-cos network, step by step."""

from typing import Any

from torch import nn

from bcos_cli.config import Recipe
from bcos_models import scale_biases, set_exponent
from bcos_models.classifier import Logits
from bcos_models.convert.annealing import remove_biases

DEFAULT_EXPONENT = 2.0


def before_annealing(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """Options with which the network of a recipe is built, where they are not those it ends with."""
    options: dict[str, Any] = {}
    if recipe.annealing.exponent_epochs:
        options["b"] = recipe.annealing.exponent_from
    if recipe.annealing.bias_epochs:
        options["keep_bias"] = True
        if recipe.model.options.get("logit_bias", "auto") == "auto":  # there from the first step, as in the end
            options["logit_bias"] = Logits().layer(num_classes).logit_bias
    return options


class Annealer:
    """Sets B, and shrinks biases, after each optimizer step.

    All of it is a function of the step, so that a resumed run goes on as it would have.

    Args:
        recipe: with its section ``annealing``.
        steps_per_epoch: optimizer steps.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self._annealing = recipe.annealing
        self._end = float(recipe.model.options.get("b", DEFAULT_EXPONENT))
        self._exponent_steps = recipe.annealing.exponent_epochs * steps_per_epoch
        self._bias_steps = recipe.annealing.bias_epochs * steps_per_epoch

    def exponent(self, step: int) -> float:
        """B after `step` steps."""
        start = self._annealing.exponent_from
        return start + (self._end - start) * _progress(step, self._exponent_steps)

    def set(self, model: nn.Module, step: int) -> None:
        """Set B for a model that has taken `step` steps."""
        if self._exponent_steps:
            set_exponent(model, self.exponent(step))

    def after_step(self, model: nn.Module, step: int) -> None:
        """Set B, and shrink biases from what they were at ``step - 1``."""
        self.set(model, step)
        if self._bias_steps:
            before = 1 - _progress(step - 1, self._bias_steps)
            scale_biases(model, (1 - _progress(step, self._bias_steps)) / before if before else 0.0)

    def is_over(self, step: int) -> bool:
        """Whether the network is a B-cos network after `step` steps."""
        return step >= max(self._exponent_steps, self._bias_steps)

    def finish(self, model: nn.Module) -> None:
        """Take off the biases, which are 0 by now."""
        if self._bias_steps:
            remove_biases(model)


def _progress(step: int, steps: float) -> float:
    return min(step / steps, 1.0) if steps else 1.0
