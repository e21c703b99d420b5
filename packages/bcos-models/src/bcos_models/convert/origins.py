"""Converted networks by name: ``timm/NAME``, ``torchvision/NAME``, and ``bcosified/NAME`` for our plain baselines."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor, nn

from bcos_core.errors import BcosError, first_line, shown
from bcos_core.plugins import suggestion
from bcos_models import imagenet
from bcos_models.checks import is_size
from bcos_models.classifier import LogitBias
from bcos_models.conversion import Decisions, Input
from bcos_models.convert.bcosify import bcosify, repeat_conversion
from bcos_models.convert.network import BcosifiedNetwork
from bcos_models.download import quick_hub
from bcos_models.model_config import check_outputs
from bcos_models.registry import create_model, get_spec
from bcos_models.spec import CIFAR10, Antialias, ImageChanges, InputSpec, ModelSpec
from bcos_models.timm_models import timm_input
from bcos_models.weights import convert_state, find_weights, load_state, read_state, unwrapped

BUILDER = f"{__name__}:converted"
_PREFIX = "network."
"""Prefix of every key in a converted network's state dict, and of none in others."""
UNKNOWN_CLASSES = 1000
"""Classes that are built where the library's weights have no classifier."""


@dataclass(frozen=True)
class Origin:
    """A network before its conversion."""

    build: Callable[..., nn.Module]
    """``(num_classes, pretrained, **options)``"""
    input: InputSpec
    """As the network was trained: standardised."""
    num_classes: int = 1000
    """Of the library's weights; 0 where they have no classifier."""
    recipe: str = "imagenet_bcosify"
    """Name of the one that fine-tunes the converted network."""


class BcosifyOptions(TypedDict, total=False):
    """Options of :func:`bcosify` for a network that is converted by name."""

    b: float
    unit_norm: bool
    keep_bias: bool
    keep_norms: bool
    keep_activations: bool
    keep_pooling: bool
    input: Input
    skip: Sequence[str]
    convert_depthwise: bool
    antialias: Antialias
    logit_bias: LogitBias


def find_spec(name: str) -> ModelSpec | None:
    """Describe the converted network of that name; None if the prefix is not ours."""
    library, _, inner = name.partition("/")
    if library not in _ORIGINS:
        return None
    origin = _ORIGINS[library](inner)
    return ModelSpec(
        name,
        BUILDER,
        family=library,
        summary=f"{inner} of {library}, B-cosified",
        input=replace(origin.input, encoding="add_inverse"),
        num_classes=origin.num_classes or UNKNOWN_CLASSES,
        options={"origin": name},
        loads_weights=True,
        recipe=origin.recipe,
    )


def converted(
    *,
    origin: str,
    num_classes: int,
    pretrained: bool = False,
    weights: str | Path | None = None,
    network: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    decisions: Mapping[str, Any] | None = None,
    as_is: bool = False,
    **options: Unpack[BcosifyOptions],
) -> nn.Module:
    """Build a network, load its weights, and convert it.

    Args:
        origin: ``timm/NAME``, ``torchvision/NAME`` or ``bcosified/NAME``.
        num_classes: K.
        pretrained: start from the library's own weights.
        weights: start from a file of the original network's weights, or load those of a converted one.
        network: options of the original network, such as ``{"drop_path_rate": 0.1}``.
        images: fields of :class:`ImageChanges`: what the images of the original network are, where that differs from
            the library's. A network that is built for one size, such as a ViT, is built for that of `images`.
        decisions: of an earlier conversion, which is repeated instead of running the network; None to run it.
        as_is: leave the network as its library has it: its own module, unconverted, for standardised images.
        options: of :func:`bcosify`.
    """
    if as_is and options:
        raise BcosError(f"as_is=True leaves the network unconverted; leave out {', '.join(sorted(options))}, or as_is")
    made = _origin(origin)
    for_network = _built_for(made.input, network or {})
    spec = _image_changes(images or {}).apply(for_network)
    if spec.size != for_network.size:
        network = {**_size_options(origin, made, spec), **(network or {})}
    state = None if weights is None else read_state(find_weights(weights))
    of_converted = state is not None and is_converted(state)
    if pretrained and made.num_classes < 1 and num_classes == UNKNOWN_CLASSES:
        raise BcosError(f"the weights of {origin!r} have no classifier; give num_classes for a new one, to be trained")
    original = unconverted(origin, num_classes, pretrained, network or {})
    replaced = pretrained and num_classes != made.num_classes
    if state is not None and not of_converted:
        replaced = load_original(original, state, num_classes != made.num_classes, str(weights))
    if replaced:
        warnings.warn(f"{origin!r} has a new, untrained classifier of {num_classes} classes", stacklevel=3)
    if as_is:
        if of_converted:
            raise BcosError(f"the weights in {str(weights)!r} are of a converted network; leave out as_is")
        setattr(original, "input_spec", spec)  # noqa: B010 - reason: modules are typed without it
        return original
    result: BcosifiedNetwork
    if decisions is None:
        result = bcosify(original, mean=spec.mean, std=spec.std, image_size=spec.size, **options)
    else:
        decided = Decisions.from_dict(decisions)
        result = repeat_conversion(original, decided, num_classes, mean=spec.mean, std=spec.std, **options)
    input_spec = replace(spec, encoding="add_inverse") if result.conversion.options.input == "6ch" else spec
    setattr(result, "input_spec", input_spec)  # noqa: B010 - reason: modules are typed without it
    if state is not None and of_converted:
        load_state(result, state, name=origin, source=str(weights))
    return result


def unconverted(origin: str, num_classes: int, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """Build a network before its conversion; `options` are those of the library's builder."""
    if reserved := {"num_classes", "pretrained"} & set(options):
        raise BcosError(
            f"network={shown(options)} sets {', '.join(sorted(reserved))}; give that to create_model itself"
        )
    try:
        return _origin(origin).build(num_classes, pretrained, **options)
    except Exception as reason:  # libraries raise many types for options that make no network
        library, _, inner = origin.partition("/")
        with_weights, remedy = (" with its weights", "; give a file of them with --weights") if pretrained else ("", "")
        raise BcosError(f"{library} cannot build {inner!r}{with_weights}: {first_line(reason)}{remedy}") from reason


def _origin(name: str) -> Origin:
    library, _, inner = name.partition("/")
    return _ORIGINS[library](inner)


def original(
    name: str, weights: str | Path | None = None, images: ImageChanges | None = None
) -> tuple[nn.Module, InputSpec, int, dict[str, Any]]:
    """Build a network as its library has it, to be explained unconverted.

    Args:
        weights: a file or URL of its weights, for any number of classes; None for those of the library.
        images: what its images are, where that differs from the library's.

    Returns:
        The network, its input, the number of its classes, and the options that it was built with.
    """
    made = _origin(name)
    classes = made.num_classes
    input_spec = (images or ImageChanges()).apply(made.input)
    if weights is None:
        if classes < 1:
            raise BcosError(f"the weights of {name!r} have no classifier, so there is no logit to explain")
        options = _size_options(name, made, input_spec)
        return unconverted(name, classes, True, options).eval(), input_spec, classes, options
    state = read_state(find_weights(weights))
    if is_converted(state):
        raise BcosError(f"the weights in {str(weights)!r} are of a converted network; give that file, or its folder")
    options = _size_options(name, made, input_spec)
    classes = _classes_of(name, state, made, options)
    network = unconverted(name, classes, False, options)
    load_original(network, state, False, str(weights))
    return network.eval(), input_spec, classes, options


def classes_of_weights(name: str, weights: str | Path) -> int | None:
    """Return for how many classes the weights of a network of another library are; None if they are converted."""
    state = read_state(find_weights(weights))
    return None if is_converted(state) else _classes_of(name, state, _origin(name), {})


def _classes_of(name: str, state: Mapping[str, Tensor], made: Origin, options: Mapping[str, Any]) -> int:
    classes = made.num_classes or UNKNOWN_CLASSES
    own = unconverted(name, classes, False, options).state_dict()
    fitting = convert_state(own, state, "")
    other = _of_other_classes(own, fitting)
    return check_outputs(next(iter(fitting[other[0]].shape), classes)) if other else classes


def _size_options(name: str, made: Origin, spec: InputSpec) -> dict[str, Any]:
    """Return the option that builds a network for another size of images, where it is built for one."""
    if spec.size == made.input.size:
        return {}
    option = {"timm": "img_size", "torchvision": "image_size"}.get(name.partition("/")[0])
    network = unconverted(name, made.num_classes or UNKNOWN_CLASSES, False, {})
    is_built_for_one = hasattr(getattr(network, "patch_embed", None), "img_size") or hasattr(network, "image_size")
    return {option: spec.size} if option and is_built_for_one else {}


def is_converted(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a converted network."""
    return all(key.startswith(_PREFIX) for key in unwrapped({}, state))


def _built_for(input_spec: InputSpec, options: Mapping[str, Any]) -> InputSpec:
    """Return the input of a network that is built for images of other channels or another size than its weights."""
    if not isinstance(options, Mapping):
        raise BcosError(f"network must be a mapping of options, got {shown(options)}")
    size = options.get("img_size", options.get("image_size"))  # timm's name for it, and torchvision's
    for name, value in (("in_chans", options.get("in_chans")), ("img_size", size)):
        if value is not None and not is_size(value):
            raise BcosError(f"network.{name} must be a whole number of at least 1, got {shown(value)}")
    if options.get("in_chans") is not None:
        input_spec = input_spec.with_channels(int(options["in_chans"]))
    return input_spec if size is None else replace(input_spec, size=int(size), resize=None)


def _image_changes(images: Mapping[str, Any]) -> ImageChanges:
    try:
        return ImageChanges(**images)
    except TypeError as reason:
        known = ", ".join(field.name for field in fields(ImageChanges))
        raise BcosError(f"images must be a mapping with any of {known}, got {shown(images)}") from reason


def load_original(network: nn.Module, state: Mapping[str, Tensor], replace_classifier: bool, source: str) -> bool:
    """Load the weights of an original network; returns whether its classifier was left as it is.

    Args:
        replace_classifier: leave it if the weights are of the same network for other classes.
    """
    own = network.state_dict()
    fitting = dict(_resampled(network, convert_state(own, state, ""), source))
    other = _of_other_classes(own, fitting) if replace_classifier else []
    fitting |= {key: own[key] for key in other}
    load_state(network, fitting, source=source)
    return bool(other)


def _resampled(network: nn.Module, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """Let timm resample the position embeddings of weights for images of another size."""
    adapt = getattr(sys.modules.get(type(network).__module__), "checkpoint_filter_fn", None)
    own = network.state_dict()
    names = ("pos_embed", "relative_position_bias_table")
    of_size = [key for key in own if key.endswith(names) and key in state and own[key].shape != state[key].shape]
    if adapt is None or not of_size:
        return state
    warnings.warn(
        f"the weights in {source!r} are for images of another size: {of_size[0]} was resampled from "
        f"{tuple(state[of_size[0]].shape)} to {tuple(own[of_size[0]].shape)}",
        stacklevel=3,
    )
    return dict(adapt(dict(state), network))


def _of_other_classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """List the tensors of other shapes, if they differ in their first dimension alone and all in the same way."""
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    sizes = {(own[key].shape[:1], state[key].shape[:1]) for key in wrong}
    alike = len(sizes) == 1 and all(own[key].shape[1:] == state[key].shape[1:] for key in wrong)
    return wrong if alike else []


def _timm(name: str) -> Origin:
    import timm

    if not timm.is_model(name):
        raise BcosError(f"timm has no model {name!r}; {suggestion(name, timm.list_models())}")
    try:
        cfg: Any = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as reason:  # an unknown tag
        raise BcosError(f"timm has no weights {name!r}: {first_line(reason)}") from reason
    classes = int(cfg.num_classes or 0)
    input_spec = timm_input(cfg.to_dict())

    def build(num_classes: int, pretrained: bool, **options: Any) -> nn.Module:
        with quick_hub() if pretrained else nullcontext():
            network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)
        return network

    return Origin(build, input_spec, classes)


def _torchvision(name: str) -> Origin:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise BcosError(
            f"torchvision has no classifier {name!r}; {suggestion(name, models.list_models(module=models))}"
        )
    weights: Any = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    input_spec = InputSpec(
        size=preset.crop_size[0],
        encoding="standardize",
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=preset.resize_size[0],
        interpolation="bicubic" if preset.interpolation.value == "bicubic" else "bilinear",
    )

    def build(num_classes: int, pretrained: bool, **options: Any) -> nn.Module:
        options = (
            _WITHOUT_AUXILIARY.get(name, {})
            | ({"image_size": input_spec.size} if name.startswith("vit_") else {})
            | options
        )
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
        if pretrained:
            state = weights.get_state_dict(progress=False, check_hash=True)
            own = {key: value for key, value in state.items() if key in network.state_dict()}  # not the auxiliary heads
            load_original(network, own, num_classes != imagenet.CLASSES, f"{weights}")
        return network

    return Origin(build, input_spec)


_WITHOUT_AUXILIARY: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False, "transform_input": False},
    "inception_v3": {"aux_logits": False, "init_weights": False, "transform_input": False},
}
"""Their auxiliary classifiers run in training alone."""


def _ours(name: str) -> Origin:
    spec = get_spec(name)
    if spec.input.encoding != "standardize":
        raise BcosError(f"{name!r} is a B-cos network already; bcosified/ takes the plain ones, such as standard_...")

    def build(num_classes: int, pretrained: bool, **options: Any) -> nn.Module:
        return create_model(name, num_classes=num_classes, pretrained=pretrained, **options)

    recipe = "bcosify_cifar10_resnet20" if spec.input.size == CIFAR10.size else "imagenet_bcosify"
    return Origin(build, spec.input, spec.num_classes, recipe)


_ORIGINS: dict[str, Callable[[str], Origin]] = {"timm": _timm, "torchvision": _torchvision, "bcosified": _ours}
