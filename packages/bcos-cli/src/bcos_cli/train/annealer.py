"""Annealing: from a converted network with B = 1 and biases to a B-cos network, step by step."""

from typing import Any, Literal

from torch import nn

from bcos_cli.config import Annealing
from bcos_core.errors import BcosError
from bcos_models import scale_biases, set_exponent
from bcos_models.classifier import Logits
from bcos_models.convert.annealing import remove_biases

DEFAULT_EXPONENT = 2.0


def final_options(annealing: Annealing, options: dict[str, Any], start: str) -> dict[str, Any]:
    """Return the `options` of a trained network as they are once annealing is over.

    Args:
        start: what the user calls the network.

    Raises:
        BcosError: a network that is not converted, or without the biases that are to go.
    """
    if not (annealing.exponent_epochs or annealing.bias_epochs):
        return dict(options)
    if options.get("as_is"):
        raise BcosError(f"annealing is for converted networks, and {start!r} is a plain one; bcos convert it first")
    end = float(annealing.exponent_to or options.get("b", DEFAULT_EXPONENT))
    if annealing.exponent_epochs and end <= annealing.exponent_from:
        raise BcosError(
            f"annealing.exponent_from={annealing.exponent_from:g} does not grow to B = {end:g} of {start!r}; "
            "give a larger annealing.exponent_to"
        )
    if annealing.bias_epochs and not options.get("keep_bias"):
        raise BcosError(
            f"annealing.bias_epochs shrinks biases that {start!r} does not have; leave it out, or convert the network "
            "with -o keep_bias=true"
        )
    final = dict(options)
    if annealing.exponent_epochs:
        final["b"] = end
    if annealing.bias_epochs:
        final["keep_bias"] = False
    return final


def initial_options(annealing: Annealing, options: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Return those of a network's `options` that annealing starts from, where they are not those it ends with."""
    initial: dict[str, Any] = {}
    if annealing.exponent_epochs:
        initial["b"] = annealing.exponent_from
    if annealing.bias_epochs:
        initial["keep_bias"] = True
        if options.get("logit_bias", "auto") == "auto":  # it stays, and so is there from the first step
            initial["logit_bias"] = Logits().layer(num_classes).logit_bias
    return initial


class Annealer:
    """Sets B and shrinks biases after each optimizer step.

    Both are functions of the step alone, so that a resumed run continues as it would have.

    Args:
        options: of the network at the end.
    """

    def __init__(self, annealing: Annealing, options: dict[str, Any], steps_per_epoch: int) -> None:
        self._start = annealing.exponent_from
        self._end = float(options.get("b", DEFAULT_EXPONENT))
        self._exponent_steps = annealing.exponent_epochs * steps_per_epoch
        self._bias_steps = annealing.bias_epochs * steps_per_epoch

    def exponent(self, step: int) -> float:
        """B after `step` steps."""
        return self._start + (self._end - self._start) * _progress(step, self._exponent_steps)

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

    def stage(self, step: int) -> Literal["before", "growing", "over"]:
        """Whether B is what it begins with after `step` steps, is growing, or has grown."""
        if step >= self._exponent_steps:
            return "over"
        return "growing" if step else "before"

    def is_over(self, step: int) -> bool:
        """Whether the network is a B-cos network after `step` steps."""
        return step >= max(self._exponent_steps, self._bias_steps)

    def finish(self, model: nn.Module) -> None:
        """Remove the biases, which are 0 by now."""
        if self._bias_steps:
            remove_biases(model)


def _progress(step: int, steps: float) -> float:
    return min(step / steps, 1.0) if steps else 1.0
