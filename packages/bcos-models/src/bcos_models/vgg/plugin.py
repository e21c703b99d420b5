"""The VGG family's descriptions. Imports no torch."""

from collections.abc import Iterable

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import IMAGENET, ModelSpec

# layers: (depths, parameters without norms and with them)
_NETWORKS = {
    11: ((1, 1, 2, 2, 2), (132_853_120, 132_855_872)),
    13: ((2, 2, 2, 2, 2), (133_037_440, 133_040_384)),
    16: ((2, 2, 3, 3, 3), (138_345_856, 138_350_080)),
    19: ((2, 2, 4, 4, 4), (143_654_272, 143_659_776)),
}
_NORMS = {"": ("none", "without norms"), "_bnu": ("batch_uncentered", "with uncentred batch norm")}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return VGG networks for ImageNet, without and with norms."""
    for layers, (depths, params) in _NETWORKS.items():
        for number, (suffix, (norm, what)) in zip(params, _NORMS.items(), strict=True):
            name = f"vgg{layers}{suffix}"
            yield ModelSpec(
                name,
                "bcos_models.vgg.network:VGG",
                family="vgg",
                summary=f"B-cos VGG for ImageNet, {what}",
                input=IMAGENET,
                params=number,
                options={"depths": depths, "norm": norm},
                checkpoint=checkpoint(name),
                recipe="imagenet_bcos_final",
            )
