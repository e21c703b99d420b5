"""Recipes: YAML files that say all a training run depends on, validated by pydantic. Imports no torch."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bcos_core.errors import BcosError

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Loss = Literal["bce", "uniform_off_label_bce", "cross_entropy"]
Optimizer = Literal["adam", "adamw", "sgd"]
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
Precision = Literal["no", "bf16", "fp16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Model(_Section):
    """What is trained."""

    name: str
    """A name that ``bcos models`` lists."""
    options: dict[str, Any] = {}
    """Arguments of the model's builder, such as ``b``, ``max_out`` or ``norm``."""
    pretrained: bool = False
    """Start from published weights; of ``timm/...`` and ``torchvision/...``, from their library's."""
    weights: str | None = None
    """Start from these: a file, URL or ``hf://`` repository."""


class Augment(_Section):
    """Random changes of training images, in this order; 0, false or null leaves a step out."""

    random_resized_crop: tuple[Probability, Probability] | None = None
    """Share of the area, from and to."""
    pad_crop: Count = 0
    """Pixels of zero padding on each side before a random crop of the original size."""
    affine_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation."""
    affine_translate: Probability = 0.0
    """Largest shift as a share of the size."""
    horizontal_flip: Probability = 0.0
    trivial_augment: bool = False
    """TrivialAugmentWide (Müller and Hutter, 2021)."""
    random_erasing: Probability = 0.0


class Annealing(_Section):
    """How a converted network (``timm/...``, ``torchvision/...``, ``bcosified/...``) becomes a B-cos network.

    With the defaults it is one from the first step: B and biases are as ``model.options`` say.
    """

    exponent_from: Annotated[float, Field(ge=1)] = 1.0
    """B at the first step; it grows linearly to that of ``model.options``."""
    exponent_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs until B has grown; 0 for not at all."""
    bias_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which biases shrink linearly to 0; 0 removes them before the first step."""


class Data(_Section):
    """What it is trained on."""

    path: str | None = None
    """Folder or URL of shards; ``--data`` sets it."""
    train_split: str = "train"
    test_split: str = "test"
    image_size: Positive | None = None
    """Side in pixels; null for the model's own."""
    image_channels: Literal[1, 3] | None = None
    """1 for greyscale, 3 for RGB; null for the model's own."""
    augment: Augment = Augment()
    shuffle_buffer: Positive = 2000
    workers: Count = 2
    """Loader processes a training process."""


class OptimizerConfig(_Section):
    """How weights are updated."""

    name: Optimizer = "adam"
    lr: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of sgd (without Nesterov's correction)."""


class Schedule(_Section):
    """Learning rate over the steps: linear warm-up, then cosine."""

    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    warmup_factor: Probability = 0.01
    """Share of the learning rate at which the warm-up starts."""
    final_factor: Probability = 0.0
    """Share of the learning rate at which the cosine ends."""


class Train(_Section):
    """The course of the training."""

    epochs: Positive
    batch_size: Positive = 64
    """Effective: over all processes and accumulated steps."""
    accumulate: Positive = 1
    """Batches whose gradients make one step."""
    precision: Precision = "no"
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    seed: Count = 0
    loss: Loss = "bce"
    keep_checkpoints: Positive = 2
    """The last ones, besides the best."""


class Evaluation(_Section):
    """How the trained model is scored and shown in the report."""

    batch_size: Positive = 256
    explainers: list[str] = ["bcos", "input_x_gradient", "integrated_gradients", "gradcam"]
    gridpg_grids: Count = 100
    """Grids of the pointing game; 0 leaves it out."""
    gridpg_size: Annotated[int, Field(ge=2)] = 2
    gridpg_smooth: Positive = 1
    """Side of the mean filter over contribution maps, odd; 15 is usual for ImageNet."""
    gallery_per_class: Count = 3
    gallery_classes: Positive = 20
    """The first so many classes are shown."""
    neurons: Count = 6
    """Channels whose most activating images the report shows, the strongest of a layer; 0 leaves them out."""
    neurons_layer: str | None = None
    """None for the last layer with a map over the image."""
    metrics: list[str] = []
    """Besides those that every evaluation has; bcos metrics lists them."""


class Recipe(_Section):
    """All a training run depends on. ``config.yaml`` in a run's folder holds one, complete."""

    model: Model
    annealing: Annealing = Annealing()
    data: Data = Data()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = Schedule()
    train: Train
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        if self.schedule.warmup_epochs >= self.train.epochs and self.schedule.warmup_epochs > 0:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} leaves nothing of "
                f"train.epochs={self.train.epochs}; make the warm-up shorter"
            )
        area = self.data.augment.random_resized_crop
        if area is not None and area[0] > area[1]:
            raise ValueError(
                f"data.augment.random_resized_crop={list(area)} must go from the smaller to the larger share"
            )
        if "num_classes" in self.model.options:
            raise ValueError("model.options.num_classes is given by the data; leave it out")
        if self.model.pretrained and self.model.weights is not None:
            raise ValueError(f"model.pretrained and model.weights={self.model.weights} are both given; choose one")
        longest = max(self.annealing.exponent_epochs, self.annealing.bias_epochs)
        if longest > self.train.epochs:
            raise ValueError(
                f"annealing takes {longest:g} epochs, more than train.epochs={self.train.epochs}; make it shorter"
            )
        if self.annealing.bias_epochs and self.model.options.get("keep_bias"):
            raise ValueError(
                "annealing.bias_epochs removes the biases that model.options.keep_bias=true keeps; choose one"
            )
        if longest and "/" not in self.model.name:
            raise ValueError(
                f"annealing is for converted networks (timm/..., torchvision/..., bcosified/...), not {self.model.name}"
            )
        if self.evaluation.gridpg_smooth % 2 == 0:
            raise ValueError(f"evaluation.gridpg_smooth={self.evaluation.gridpg_smooth} must be odd")
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.accumulate={self.train.accumulate} must divide train.batch_size={self.train.batch_size}"
            )
        return self


def load_recipe(name: str, overrides: list[str] | None = None, *, data: str | None = None) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name: a YAML file, or a name that ``bcos recipes`` lists.
        overrides: ``key=value`` with dotted keys, the values in YAML.
        data: for ``data.path``.

    Raises:
        BcosError: no such recipe, not YAML, or a key or value that does not fit; one line with key, value and
            remedy.
    """
    values = _read(name)
    for text in overrides or []:
        override(values, text)
    if data is not None:
        _section(values, "data", f"--data {data}")["path"] = data
    return validate_recipe(values, source=name)


def validate_recipe(values: dict[str, Any], source: str) -> Recipe:
    """Check the values of a recipe.

    Raises:
        BcosError: as :func:`load_recipe`.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as reason:
        problems = [_describe(error) for error in reason.errors()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BcosError(f"recipe {source}: {problems[0]}{more}") from reason


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, with every value."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def _read(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Values of a recipe, merged over those of its ``base``."""
    from bcos_cli.plugins import recipes

    path = Path(name) if name.endswith((".yaml", ".yml")) else recipes()[name].path
    if str(path) in above:
        raise BcosError(f"the recipe {name} is its own base: {' -> '.join((*above, str(path)))}")
    try:
        values = yaml.safe_load(path.read_text())
    except UnicodeDecodeError as reason:
        raise BcosError(f"the recipe {name} is no text in UTF-8: {reason}") from reason
    except OSError as reason:
        raise BcosError(
            f"cannot read the recipe {name!r}: {reason.strerror}; bcos recipes lists those there are"
        ) from reason
    except yaml.YAMLError as reason:
        raise BcosError(f"the recipe {name} is no YAML: {' '.join(str(reason).split())}") from reason
    if not isinstance(values, dict):
        raise BcosError(f"the recipe {name} must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise BcosError(f"in the recipe {name}, base={base!r} must be the name or the file of another recipe")
    if base.endswith((".yaml", ".yml")):
        base = str(path.parent / base)
    return _merge(_read(base, (*above, str(path))), values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` on top; a model by name brings its own options."""
    merged = dict(below)
    for key, value in above.items():
        if key == "model" and isinstance(value, dict) and "name" in value:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def override(values: dict[str, Any], given: str) -> None:
    """Set the value that ``key=value`` names, with a dotted key and the value in YAML.

    Raises:
        BcosError: no such form, or a key inside of a value.
    """
    key, equals, text = given.partition("=")
    if not equals or not key.strip():
        raise BcosError(f"an override is written key=value, such as train.epochs=5, got {given!r}")
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and _EXPONENT.fullmatch(value):  # YAML 1.1 reads 1e-3 as text
            value = float(value)
    except yaml.YAMLError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        values = _section(values, section, f"-o {given}")
    values[last] = value


def _section(values: dict[str, Any], name: str, wanted_by: str) -> dict[str, Any]:
    """Return a section, made if it is missing or empty."""
    if values.get(name) is None:
        values[name] = {}
    section = values[name]
    if not isinstance(section, dict):
        raise BcosError(f"{wanted_by}: {name}={section!r} is a value, not a section")
    return section


def _describe(error: Any) -> str:
    """One line: key, value, remedy."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        return f"unknown key {key!r}; {remedy}"
    if error["type"] == "missing":
        return f"{key} is missing; give it a value"
    if not location:
        return str(error["msg"]).removeprefix("Value error, ")
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}={error['input']!r}: {message}"


def _known_keys(location: list[str]) -> list[str]:
    section: Any = Recipe
    for part in location:
        annotation = section.model_fields[part].annotation
        section = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)
