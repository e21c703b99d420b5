"""The VGG family's descriptions. Imports no torch."""

from collections.abc import Iterable

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import IMAGENET, ModelSpec

_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_NORMS = {"": ("none", "without norms"), "_bnu": ("batch_uncentered", "with uncentred batch norm")}

_PARAMS = {
    "vgg11": 132_853_120,
    "vgg11_bnu": 132_855_872,
    "vgg13": 133_037_440,
    "vgg13_bnu": 133_040_384,
    "vgg16": 138_345_856,
    "vgg16_bnu": 138_350_080,
    "vgg19": 143_654_272,
    "vgg19_bnu": 143_659_776,
}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return VGG networks for ImageNet, without and with norms."""
    for layers, depths in _DEPTHS.items():
        for suffix, (norm, what) in _NORMS.items():
            name = f"vgg{layers}{suffix}"
            yield ModelSpec(
                name,
                "bcos_models.vgg.network:bcos_vgg",
                family="vgg",
                summary=f"B-cos VGG for ImageNet, {what}",
                input=IMAGENET,
                params=_PARAMS.get(name),
                options={"depths": depths, "norm": norm},
                checkpoint=checkpoint(name),
                recipe="imagenet_bcos_final",
            )
