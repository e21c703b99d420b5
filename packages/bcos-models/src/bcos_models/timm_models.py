"""Our models in timm's registry, and timm's descriptions of the images that a network takes.

``timm.create_model("bcos_resnet50")`` works after ``import bcos_models``. timm is imported in functions only: its
import calls :func:`register`.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_models.classifier import ImageClassifier, remove_classifier
from bcos_models.model_config import ModelConfig
from bcos_models.registry import create_model, get_spec, model_specs, published_weights
from bcos_models.spec import IMAGENET_STANDARDIZED, InputSpec, Interpolation
from bcos_models.weights import convert_state, find_weights, load_weights

PREFIX = "bcos_"
FEATURES = 4
"""Stages that ``features_only=True`` gives, the last ones, unless ``out_indices`` says which."""

default_cfgs: dict[str, Any] = {}
"""timm's own descriptions; it looks for them under this name."""


def register(_timm_models: object = None) -> None:
    """Register every model; called once timm has been imported."""
    from timm.models import is_model, register_model
    from timm.models._registry import generate_default_cfgs

    for spec in model_specs():
        name = PREFIX + spec.name
        if is_model(name) or "." in name:  # behind a dot timm looks for a tag
            continue
        cfg = pretrained_cfg(spec.input) | {"num_classes": spec.num_classes}
        if spec.checkpoint is not None:
            cfg |= {"url": spec.checkpoint.url, "license": spec.checkpoint.license}
        default_cfgs.update(generate_default_cfgs({name: cfg}))

        def build(pretrained: bool = False, _name: str = spec.name, **options: Any) -> nn.Module:
            return _build(_name, pretrained, **options)

        build.__name__ = build.__qualname__ = name
        build.__module__ = __name__
        register_model(build)


def pretrained_cfg(input_spec: InputSpec) -> dict[str, Any]:
    """Describe an input as timm does; B-cos networks take values in [0, 1], without mean and deviation."""
    plain = input_spec.encoding == "standardize"
    return {
        "input_size": (input_spec.encoded_channels, input_spec.size, input_spec.size),
        "crop_pct": 1.0 if input_spec.resize is None else input_spec.size / input_spec.resize,
        "interpolation": input_spec.interpolation,
        "mean": input_spec.mean if plain else (0.0,) * 3,
        "std": input_spec.std if plain else (1.0,) * 3,
    }


def input_of(network: nn.Module) -> InputSpec:
    """Return size, mean and standard deviation of a network of timm or of ours; ImageNet's for others."""
    made: Any = getattr(network, "bcos_config", None)
    if isinstance(made, ModelConfig):
        return made.input
    cfg: Any = getattr(network, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping):
        return IMAGENET_STANDARDIZED
    return timm_input(cfg, getattr(getattr(network, "patch_embed", None), "img_size", None))


def timm_input(cfg: Mapping[str, Any], built_for: tuple[int, int] | None = None) -> InputSpec:
    """Read timm's ``pretrained_cfg`` of a network, and the height and width that it was built for if others."""
    from timm.data import resolve_data_config  # type: ignore[attr-defined] # reason: timm exports implicitly

    data = resolve_data_config({}, pretrained_cfg=dict(cfg))  # type: ignore[no-untyped-call] # reason: untyped in timm
    size = int(built_for[-1] if built_for else data["input_size"][-1])
    interpolation: Interpolation = "bicubic" if data["interpolation"] == "bicubic" else "bilinear"
    return InputSpec(
        size=size,
        channels=int(data["input_size"][0]),
        encoding="standardize",
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=math.floor(size / data["crop_pct"]),
        interpolation=interpolation,
    )


_SOURCES = ("file", "url", "state_dict", "hf_hub_id", "source")
"""Keys of timm's description that say where weights come from."""


def _build(name: str, pretrained: bool, **options: Any) -> nn.Module:
    """Build a model for timm; published weights come through our own loader, which verifies them."""
    from timm.models import build_model_with_cfg

    given = options.get("pretrained_cfg")
    elsewhere = {**(given if isinstance(given, dict) else {}), **(options.get("pretrained_cfg_overlay") or {})}
    ours = pretrained and not any(elsewhere.get(key) for key in _SOURCES)
    model: nn.Module = build_model_with_cfg(
        partial(_create, name, published=ours, cache_dir=options.pop("cache_dir", None) if ours else None),
        PREFIX + name,
        pretrained and not ours,
        pretrained_filter_fn=partial(_filter, name),
        feature_cfg={"feature_cls": "getter", "out_indices": FEATURES},
        **options,
    )
    return model


def _create(
    name: str,
    *,
    published: bool,
    cache_dir: str | Path | None,
    num_classes: int | None = None,
    global_pool: str = "avg",
    img_size: object = None,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    **options: Any,
) -> nn.Module:
    del img_size  # any size will do
    if global_pool != "avg":
        raise BcosError(f"global_pool must be 'avg', got {global_pool!r}")
    if drop_rate:  # timm's scripts pass a zero, which not every family takes
        options["drop_rate"] = drop_rate
    if drop_path_rate is not None:
        options["drop_path"] = drop_path_rate
    spec = get_spec(name)
    cached = published and cache_dir is None
    model = create_model(name, pretrained=cached, num_classes=num_classes or spec.num_classes, **options)
    if published and cache_dir is not None:
        path = find_weights(published_weights(spec), folder=cache_dir)
        load_weights(model, path, name=name, replace_classifier=True)
    if num_classes == 0:
        remove_classifier(model, name)
    return model


def _filter(name: str, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights from elsewhere in the keys of the model; a classifier of other classes stays as it is."""
    own = model.state_dict()
    converted = dict(convert_state(own, state, name))
    if isinstance(model, ImageClassifier):
        prefix = f"{model.classifier_name}."
        ours = {key: value for key, value in own.items() if key.startswith(prefix)}
        if any(key in converted and converted[key].shape != value.shape for key, value in ours.items()):
            converted |= ours
        if not ours:
            converted = {key: value for key, value in converted.items() if not key.startswith(prefix)}
    return converted
