"""Models by name."""

import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcos_core.errors import BcosError
from bcos_core.plugins import check_options, resolve, takes
from bcos_models import plugins
from bcos_models.checks import is_size
from bcos_models.spec import Checkpoint, ModelConfig, ModelSpec

if TYPE_CHECKING:
    from torch import nn


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, of every plugin, that match a shell pattern such as ``"cifar10_*"``, sorted."""
    return [name for name in plugins.registry().names() if fnmatchcase(name, pattern)]


def model_specs() -> list[ModelSpec]:
    """Descriptions of all models, sorted by name."""
    return sorted(plugins.registry(), key=lambda spec: spec.name)


def get_spec(name: str) -> ModelSpec:
    """Description of one model.

    Raises:
        BcosError: no such model; the message suggests one.
    """
    return plugins.registry()[name]


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> "nn.Module":
    """Build a model by name.

    Args:
        name: one of :func:`list_models`.
        pretrained: load the published weights, downloaded on first use; they have terms of their own (see
            ``get_spec(name).checkpoint``).
        weights: other weights to load, in any of the forms that :func:`bcos_models.load_weights` takes.
        num_classes: outputs; None for the model's own number. Where the weights have another number, the
            classifier is replaced by a new one, with a logit bias for as many classes; with `weights` that is
            worth a warning.
        options: arguments of the model's builder, such as ``b``, ``max_out``, ``norm`` or ``in_chans``.

    Returns:
        The model, in train mode as PyTorch builds modules; call ``.eval()`` before explaining. Its attribute
        ``transform`` turns an image into its input, ``bcos_config`` tells how it was made.

    Raises:
        BcosError: an unknown model or option, or weights that cannot be loaded.

    >>> model = create_model("cifar10_resnet20", num_classes=5, b=1.5)
    """
    from bcos_models.weights import load_weights

    spec = get_spec(name)
    source = _source(spec, pretrained, weights)
    builder = resolve(spec.builder)
    classes = spec.num_classes if num_classes is None else num_classes
    if not is_size(classes):
        raise BcosError(f"num_classes must be at least 1, got {classes!r}")
    classes = int(classes)
    defaults = {"in_chans": spec.input.encoded_channels} if takes(builder, "in_chans") else {}
    arguments: dict[str, Any] = {**defaults, **spec.options, **options, "num_classes": classes}
    check_options(f"the model {name!r}", builder, arguments)
    try:
        model: nn.Module = builder(**arguments)
    except TypeError as reason:  # builders check values; this is for what is no number, or no list of them
        raise BcosError(f"the model {name!r} cannot be built with {options}: {reason}") from reason
    in_chans = arguments.get("in_chans")
    seen = spec.input.seen_with(int(in_chans)) if in_chans else spec.input
    describe(model, ModelConfig(name, classes, dict(options), seen))
    if source is not None:
        replaced = load_weights(model, source, name=name, replace_classifier=num_classes is not None)
        if replaced and not pretrained:
            warnings.warn(
                f"the weights in {str(weights)!r} are of another number of classes than {classes}: "
                f"{name!r} has a new, untrained classifier",
                stacklevel=2,
            )
    return model


def describe(model: "nn.Module", config: ModelConfig) -> None:
    """Give a model the attributes that tell how it was made, and what is done to its input."""
    from bcos_models.transforms import InferenceTransform

    for key, value in {"bcos_config": config, "transform": InferenceTransform(config.input)}.items():
        setattr(model, key, value)


def _source(spec: ModelSpec, pretrained: bool, weights: str | Path | None) -> str | Path | Checkpoint | None:
    if not pretrained:
        return weights
    if weights is not None:
        raise BcosError(f"give pretrained=True or weights={str(weights)!r}, not both")
    return published_weights(spec)


def published_weights(spec: ModelSpec) -> Checkpoint:
    """Checkpoint of a model.

    Raises:
        BcosError: it has none.
    """
    if spec.checkpoint is None:
        raise BcosError(
            f"there are no published weights of {spec.name!r}; "
            "give weights=FILE, or one of the models that bcos models lists with an accuracy"
        )
    return spec.checkpoint
