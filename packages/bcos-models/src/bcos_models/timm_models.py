"""Our models in timm's registry: ``timm.create_model("bcos_resnet50")`` after ``import bcos_models``.

timm is imported in functions only: its import calls :func:`register`.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_models.registry import create_model, get_spec, model_specs
from bcos_models.spec import InputSpec
from bcos_models.weights import convert_state

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
        if is_model(name):
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


def pretrained_cfg(seen: InputSpec) -> dict[str, Any]:
    """Describe an input as timm does; B-cos networks take values in [0, 1], without mean and deviation."""
    plain = seen.encoding == "standardize"
    return {
        "input_size": (seen.encoded_channels, seen.size, seen.size),
        "crop_pct": 1.0 if seen.resize is None else seen.size / seen.resize,
        "interpolation": "bilinear",
        "mean": seen.mean if plain else (0.0,) * 3,
        "std": seen.std if plain else (1.0,) * 3,
    }


def _build(name: str, pretrained: bool, **options: Any) -> nn.Module:
    """Build as timm asks; published weights come through our own loader, which verifies them."""
    from timm.models import build_model_with_cfg

    ours = pretrained and not options.get("pretrained_cfg") and not options.get("pretrained_cfg_overlay")
    model: nn.Module = build_model_with_cfg(
        partial(_create, name, pretrained=ours),
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
    pretrained: bool,
    num_classes: int | None = None,
    global_pool: str = "avg",
    img_size: object = None,
    **options: Any,
) -> nn.Module:
    del img_size  # any size will do
    if global_pool != "avg":
        raise BcosError(f"global_pool must be 'avg', got {global_pool!r}")
    classes = num_classes or get_spec(name).num_classes
    model = create_model(name, pretrained=pretrained, num_classes=classes, **options)
    if num_classes == 0:
        model.reset_classifier(0)  # type: ignore[operator] # reason: every classifier has it
    return model


def _filter(name: str, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return dict(convert_state(model.state_dict(), state, name))
