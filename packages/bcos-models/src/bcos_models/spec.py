"""Descriptions of models: light, frozen, importable without torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, get_args

from bcos_core.errors import BcosError, shown
from bcos_models.checks import is_number, is_range, is_size

MAX_SIDE = 4096
"""Pixels along a side of a network's input."""
MAX_CHANNELS = 1024

Encoding = Literal["add_inverse", "standardize", "none"]
Interpolation = Literal["bilinear", "bicubic"]
Antialias = Literal["none", "blurpool"]


@dataclass(frozen=True)
class ImageChanges:
    """What differs in a network's images from its description; None for what does not.

    With `size` alone, `resize` changes in proportion.
    """

    size: int | None = None
    """Height and width in pixels."""
    resize: int | Literal["squash"] | None = None
    """Shorter side before the centre crop; ``squash``: height and width become `size`."""
    mean: Sequence[float] | None = None
    """Of each channel, or one number for all; so is `std`. Only of standardised images."""
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("resize", self.resize)):
            if not (value is None or is_size(value) or (name == "resize" and value == "squash")):
                raise BcosError(f"{name}={shown(value)} must be a whole number of at least 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (isinstance(values, list | tuple) and all(map(is_number, values))):
                raise BcosError(f"{name}={shown(values)} must be a list of numbers, one for each channel")

    def apply(self, spec: "InputSpec") -> "InputSpec":
        """Return the changed description.

        Raises:
            BcosError: values that no input has, or a mean of images that are not standardised; it begins with the name
                of the field.
        """
        changes: dict[str, Any] = {}
        if self.size is not None:
            in_proportion = None if spec.resize is None else round(spec.resize * self.size / spec.size)
            changes |= {"size": self.size, "resize": in_proportion}
        if self.resize is not None:
            changes["resize"] = None if self.resize == "squash" else self.resize
        size, resize = changes.get("size", spec.size), changes.get("resize")
        if resize is not None and resize < size:
            raise BcosError(
                f"resize={resize} is smaller than the {size} pixels that are cropped from it; give at least {size}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                changes[name] = _of_channels(name, values, spec)
        return replace(spec, **changes)


def _of_channels(name: str, values: Sequence[float], spec: "InputSpec") -> tuple[float, ...]:
    given = ",".join(f"{value:g}" for value in values)
    if spec.encoding != "standardize":
        raise BcosError(f"{name}={given} is of standardised images, and this network takes values in [0, 1]; remove it")
    if len(values) not in (1, spec.channels):
        raise BcosError(f"{name}={given} must be one number, or one for each of {spec.channels} channels")
    return tuple(values) * (spec.channels if len(values) == 1 else 1)


@dataclass(frozen=True)
class InputSpec:
    """The images that a model takes, and how they are encoded.

    ``add_inverse`` appends the inverse channels to values in [0, 1] (B-cos networks); ``standardize``
    subtracts a mean and divides by a standard deviation (the plain baselines); ``none`` leaves values in
    [0, 1] as they are.
    """

    size: int = 224
    """Height and width in pixels."""
    channels: int = 3
    """Channels of the image before it is encoded."""
    encoding: Encoding = "add_inverse"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of each channel; used by ``standardize`` only, as is `std`."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: int | None = 256
    """Shorter side, in pixels, before the centre crop of `size`; None resizes to `size` directly."""
    interpolation: Interpolation = "bilinear"
    range: tuple[float, float] | None = None
    """The values that are black and white in images of more than 8 bits; None for those of their formats."""

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            raise BcosError(f"interpolation must be one of {get_args(Interpolation)}, got {shown(self.interpolation)}")
        if self.encoding not in get_args(Encoding):
            raise BcosError(f"encoding must be one of {get_args(Encoding)}, got {shown(self.encoding)}")
        for name, most in (("size", MAX_SIDE), ("channels", MAX_CHANNELS), ("resize", 2 * MAX_SIDE)):
            value = getattr(self, name)
            if not (is_size(value) and int(value) <= most) and not (name == "resize" and value is None):
                raise BcosError(f"{name} of an input must be 1 to {most:,}, got {shown(value)}")
        self._check_statistics()
        if self.range is not None and not is_range(self.range):
            raise BcosError(f"range of an input must be two finite numbers, black and white, got {shown(self.range)}")

    def _check_statistics(self) -> None:
        least_values = self.channels if self.encoding == "standardize" else 0
        for name, values in (("mean", self.mean), ("std", self.std)):
            least = 0.0 if name == "std" else -math.inf
            plain = isinstance(values, Sequence) and all(is_number(v) and least < v < math.inf for v in values)
            if not plain or len(values) < least_values:
                raise BcosError(f"{name} of an input must have a finite number for each channel, got {shown(values)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; `range` only if there is one, which earlier versions do not know."""
        return {name: value for name, value in asdict(self).items() if name != "range" or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave, also if it went through JSON; other keys are a TypeError."""
        read: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return cls(**read)

    def with_channels(self, encoded_channels: int) -> Self:
        """Describe the same input with another number of channels for the network's first layer.

        With an odd number there are no inverse channels; mean and deviation of channels that have none are
        the average of the others.
        """
        if encoded_channels == self.encoded_channels:
            return self
        if self.encoding == "add_inverse" and encoded_channels % 2 == 0:
            return replace(self, channels=encoded_channels // 2)
        if self.encoding != "standardize":
            return replace(self, channels=encoded_channels, encoding="none")
        mean, std = ((sum(values) / len(values),) * encoded_channels for values in (self.mean, self.std))
        return replace(self, channels=encoded_channels, mean=mean, std=std)

    @property
    def encoded_channels(self) -> int:
        """Channels that the network's first layer sees."""
        return self.channels * (2 if self.encoding == "add_inverse" else 1)


@dataclass(frozen=True)
class Checkpoint:
    """Published weights, which can be downloaded or come with a package, and their accuracy."""

    url: str
    """Address of a ``.safetensors`` or ``.pth`` file; ``package:MODULE/FILE`` is one of an installed package."""
    sha256: str = ""
    """First hexadecimal digits of the file's SHA-256; empty if it is not known."""
    top1: float | None = None
    """Accuracy in %, as published; so is `top5`."""
    top5: float | None = None
    license: str = ""
    """Note on the terms of the weights."""
    class_names: tuple[str, ...] | None = None
    """Names of the outputs; None for those of ImageNet."""


@dataclass(frozen=True)
class ModelSpec:
    """A model by name, and how to build it."""

    name: str
    builder: str
    """``"module:function"``; called with ``num_classes``, ``in_chans`` and the options."""
    family: str
    summary: str = ""
    input: InputSpec = field(default_factory=InputSpec)
    num_classes: int = 1000
    """Default number of classes."""
    params: int | None = None
    """Number of parameters with the defaults; None if it is not known."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Arguments of the builder that make this model; a caller may override them."""
    checkpoint: Checkpoint | None = None
    """What ``create_model(name, pretrained=True)`` loads."""
    loads_weights: bool = False
    """Whether the builder loads weights itself: it is called with ``pretrained`` and ``weights`` too."""
    recipe: str | None = None
    """Recipe of ``bcos train`` that the model is trained with; the recipe's own model is replaced by this one."""


IMAGENET = InputSpec()
IMAGENET_LONG = InputSpec(resize=232)
"""Input of the networks that were trained with the long recipe."""
IMAGENET_STANDARDIZED = InputSpec(encoding="standardize")
CIFAR10 = InputSpec(size=32, resize=None)
CIFAR10_STANDARDIZED = InputSpec(
    size=32, resize=None, encoding="standardize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
