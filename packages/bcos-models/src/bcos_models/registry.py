"""Models by name: which there are, and how one is built."""

import inspect
import warnings
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcos_core.errors import BcosError, first_line, shown
from bcos_core.plugin_guard import plugin_errors
from bcos_core.plugins import check_options, checked, first_result, is_ours, resolve, takes
from bcos_models import imagenet, plugins
from bcos_models.checks import is_size
from bcos_models.conversion import Decisions
from bcos_models.model_config import ModelConfig, usual_probabilities
from bcos_models.spec import Checkpoint, InputSpec, ModelSpec

if TYPE_CHECKING:
    from torch import nn

_TRAINING_ONLY = ("drop_path", "drop_rate")
"""Options of builders that change nothing in eval mode."""
LIBRARIES = ("timm", "torchvision")
"""Whose networks are models by the name of their library and their own."""


def list_models(pattern: str = "*") -> list[str]:
    """List the names of all models, of every plugin, that match a shell pattern such as ``"cifar10_*"``, sorted."""
    return [name for name in plugins.registry().names() if fnmatchcase(name, pattern)]


def model_specs() -> list[ModelSpec]:
    """List the descriptions of all models, sorted by name."""
    return sorted(plugins.registry(), key=lambda spec: spec.name)


def get_spec(name: str) -> ModelSpec:
    """Return the description of one model, listed or built from its name (``timm/resnet18``).

    Raises:
        BcosError: no such model; the message suggests one.
    """
    registry = plugins.registry()
    if name in registry.names():
        return registry[name]
    found = first_result(plugins.manager().hook.bcos_models_find_spec, ModelSpec, name=name)
    return registry[name] if found is None else found


def package_of(name: str) -> str | None:
    """Return package and version that a listed model comes with; None for one of ours."""
    return plugins.registry().makers().get(name)


def is_model(name: str) -> bool:
    """Whether :func:`create_model` knows the name."""
    try:
        get_spec(name)
    except BcosError:
        return False
    return True


def check_named(run_or_model: str) -> None:
    """Refuse what names neither a folder or ``.safetensors`` file, nor a repository, nor a model.

    Raises:
        BcosError: nothing of that name; the message suggests one.
    """
    path = Path(run_or_model)
    is_there = path.is_dir() or (path.suffix == ".safetensors" and path.exists())
    if run_or_model.startswith("hf://") or is_there or is_model(run_or_model):
        return
    if path.is_file():
        raise BcosError(
            f"the file {run_or_model!r} does not say which network its weights are of; name that: "
            f"timm/NAME --weights {run_or_model}, or torchvision/NAME, or a model that bcos models lists"
        )
    if run_or_model.partition("/")[0] in LIBRARIES:
        get_spec(run_or_model)  # its message suggests one
    # Whether timm has it is not looked up: that would import torch for a misspelt path.
    raise BcosError(
        f"{run_or_model!r} is neither a run's folder, nor a .safetensors file, nor a model; bcos models lists those, "
        "networks of libraries are named timm/NAME and torchvision/NAME, and hf://owner/repository names one on the "
        "Hugging Face hub"
    )


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
        name: one of :func:`list_models`; or ``timm/NAME``, ``torchvision/NAME``, that network B-cosified (see
            :func:`bcos_models.bcosify`, whose options it takes) or, with ``as_is=True``, unconverted; or
            ``bcosified/NAME``, a plain one of ours.
        pretrained: load the published weights, downloaded on first use; they have terms of their own (see
            ``get_spec(name).checkpoint``). Of a network to be converted, its library's.
        weights: other weights to load, in any of the forms that :func:`bcos_models.load_weights` takes. Of a network
            to be converted, its own or those of the converted one.
        num_classes: outputs; None for the model's own number. Where the weights have another number, the
            classifier is replaced by a new one, with a logit bias for as many classes; with `weights` this
            gives a warning.
        options: arguments of the model's builder, such as ``b``, ``max_out``, ``norm`` or ``in_chans``.

    Returns:
        The model, in train mode as PyTorch builds modules; call ``.eval()`` before explaining. Its attribute
        ``transform`` turns an image into its input, ``class_names`` names its outputs where they are known, and
        ``bcos_config`` describes how it was made.

    Raises:
        BcosError: an unknown model or option, or weights that cannot be loaded.

    >>> model = create_model("cifar10_resnet20", num_classes=5, b=1.5)
    """
    from torch import nn  # here, so that listing models imports no torch

    from bcos_models.weights import load_weights

    spec, registry = get_spec(name), plugins.registry()
    if pretrained and weights is not None:
        raise BcosError(f"give pretrained=True or weights={str(weights)!r}, not both")
    listed = name in registry.names()
    builder = registry.builder(name) if listed else resolve(spec.builder)
    source = None if spec.loads_weights else published_weights(spec) if pretrained else weights
    classes = spec.num_classes if num_classes is None else num_classes
    if not is_size(classes):
        raise BcosError(f"num_classes must be at least 1, got {classes!r}")
    classes = int(classes)
    defaults = {"in_chans": spec.input.encoded_channels} if takes(builder, "in_chans") else {}
    arguments: dict[str, Any] = {**defaults, **spec.options, **options, "num_classes": classes}
    check_options(f"the model {name!r}", builder, arguments)
    if spec.loads_weights:
        arguments |= {"pretrained": pretrained, "weights": weights}
    ours = is_ours(spec.builder)
    what = registry.described(name) if listed else f"the model {name!r}" + ("" if ours else f" ({spec.builder})")
    try:
        with plugin_errors(what, ours=ours):
            model = checked(builder(**arguments), nn.Module, what)
    except TypeError as reason:  # builders check values, and expect them to be numbers, or lists of them
        raise BcosError(f"the model {name!r} cannot be built with {shown(options)}: {first_line(reason)}") from reason
    input_spec: InputSpec = getattr(model, "input_spec", spec.input)
    if in_chans := arguments.get("in_chans"):
        input_spec = input_spec.with_channels(int(in_chans))
    probabilities = usual_probabilities(name, input_spec)
    decisions = getattr(model, "decisions", None)
    kept = {key: value for key, value in options.items() if key != "decisions"}
    describe(
        model,
        ModelConfig(
            name,
            classes,
            kept,
            input_spec,
            probabilities=probabilities,
            decisions=asdict(decisions) if isinstance(decisions, Decisions) else None,
            package=package_of(name),
        ),
    )
    if source is not None:
        replaced = load_weights(model, source, name=name, replace_classifier=num_classes is not None)
        if replaced and not pretrained:
            warnings.warn(
                f"the weights in {str(weights)!r} are of another number of classes than {classes}: "
                f"{name!r} has a new, untrained classifier",
                stacklevel=2,
            )
        elif pretrained and not replaced and (names := _class_names(spec, classes)):
            setattr(model, "class_names", names)  # noqa: B010 - reason: modules are typed without it
        if pretrained and (other := _other_than_trained(builder, spec, options)):
            given = ", ".join(f"{name}={value!r}" for name, value in other.items())
            warnings.warn(
                f"the published weights of {name!r} were trained without {given}: the network computes something else "
                "with them until it is trained again",
                stacklevel=2,
            )
    return model


def _other_than_trained(builder: Any, spec: ModelSpec, options: dict[str, Any]) -> dict[str, Any]:
    """Options with which a network computes something else, in eval mode, than the published one."""
    from bcos_models.layers import bcos_layers

    published: dict[str, Any] = {}
    for function in (bcos_layers, builder):
        published |= {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    published |= spec.options
    return {k: v for k, v in options.items() if k not in _TRAINING_ONLY and k in published and published[k] != v}


def describe(model: "nn.Module", config: ModelConfig) -> None:
    """Give a model the attributes that tell how it was made, and what is done to its input."""
    from bcos_models.transforms import InferenceTransform

    transform = InferenceTransform(config.input)
    for key, value in {"bcos_config": config, "transform": transform, "class_names": config.classes}.items():
        setattr(model, key, value)


def _class_names(spec: ModelSpec, classes: int) -> list[str] | None:
    if spec.checkpoint is not None and spec.checkpoint.class_names is not None:
        return list(spec.checkpoint.class_names)
    return imagenet.class_names() if classes == imagenet.CLASSES else None


def published_weights(spec: ModelSpec) -> Checkpoint:
    """Return the checkpoint of a model, which must have published weights."""
    if spec.checkpoint is None:
        raise BcosError(
            f"there are no published weights of {spec.name!r}; "
            "give weights=FILE, or one of the models that bcos models lists with an accuracy"
        )
    return spec.checkpoint
