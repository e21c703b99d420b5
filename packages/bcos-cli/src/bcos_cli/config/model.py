"""Sections ``model`` and ``annealing`` of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bcos_cli.config.section import NonNegative, Section
from bcos_core.errors import BcosError
from bcos_models.model_config import check_options


class Model(Section):
    """The network that is trained."""

    name: str | None = None
    """A name that ``bcos models`` lists; not needed where ``start`` says it."""
    options: dict[str, Any] = {}
    """Arguments of the model's builder, such as ``b``, ``max_out`` or ``norm``."""
    pretrained: bool = False
    """Start from published weights; of ``timm/...`` and ``torchvision/...``, from their library's."""
    weights: str | None = None
    """Start from these: a file, URL or ``hf://`` repository."""
    start: str | None = None
    """Start from this network, all but its classifier where the classes are others.

    A run's folder, a ``.safetensors`` file of one, a folder or ``hf://`` repository of ours, or a model with published
    or given ``weights``: one of ours, or ``timm/...`` and ``torchvision/...`` as they are, not converted; ``--from``
    sets it.
    """
    train: Literal["all", "head"] = "all"
    """``head``: the classifier alone; everything before it stays as it is, running statistics included."""
    freeze: list[str] = []
    """Names of parameters that stay as they are; patterns such as ``stem.*``."""

    @model_validator(mode="after")
    def _says_one_network(self) -> "Model":
        if self.name is None and self.start is None:
            raise ValueError("model.name is missing; give it a value, or model.start")
        if "num_classes" in self.options:
            raise ValueError("model.options.num_classes is given by the data; leave it out")
        if word := _truth_as_a_word(self.options):
            raise ValueError(
                f"model.options.{word} is a word, which a network would take for true; write true or false"
            )
        try:
            check_options(self.options)
        except BcosError as reason:
            raise ValueError(f"model.options: {reason}") from reason
        given = {
            "model.pretrained": self.pretrained,
            f"model.weights={self.weights}": self.weights is not None,
            f"model.start={self.start}": self.start is not None,
        }
        several = [key for key, is_given in given.items() if is_given]
        if several == [f"model.weights={self.weights}", f"model.start={self.start}"]:
            several = []  # the weights of the model that is named; build() refuses them for a run
        if len(several) > 1:
            raise ValueError(f"{' and '.join(several)} are both given; choose one")
        if self.start is not None and (self.name is not None or self.options):
            raise ValueError(
                f"model.start={self.start} brings the name and the options of its network; leave out "
                "model.name and model.options"
            )
        return self


def _truth_as_a_word(options: dict[str, Any]) -> str | None:
    """Return the first of `options`, as ``key=value``, that YAML 1.1 took for true or false: the others have types."""
    for key, value in options.items():
        if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
            return f"{key}={value}"
        if isinstance(value, dict) and (inner := _truth_as_a_word(value)):
            return f"{key}.{inner}"
    return None


class Annealing(Section):
    """How a converted network (``timm/...``, ``torchvision/...``, ``bcosified/...``) becomes a B-cos network.

    With the defaults it is one from the first step: B and biases are as ``model.options`` say.
    """

    exponent_from: Annotated[float, Field(ge=1)] = 1.0
    """B at the first step; it grows linearly to that of ``model.options``, or of the network it starts from."""
    exponent_to: Annotated[float, Field(ge=1)] | None = None
    """B at the end, where ``model.start`` brings the network; null for that of its options."""
    exponent_epochs: NonNegative = 0.0
    """Epochs until B has grown; 0 for not at all."""
    bias_epochs: NonNegative = 0.0
    """Epochs over which biases shrink linearly to 0; 0 removes them before the first step."""
