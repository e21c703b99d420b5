"""The DenseNet family's descriptions. Imports no torch."""

from collections.abc import Iterable

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import CIFAR10, IMAGENET, IMAGENET_LONG, ModelSpec

_BCOS = "bcos_models.densenet.network:DenseNet"

# name: (depths, growth rate, width of the stem, parameters)
_IMAGENET: dict[str, tuple[tuple[int, ...], int, int, int]] = {
    "densenet121": ((6, 12, 24, 16), 32, 64, 7_945_440),
    "densenet161": ((6, 12, 36, 24), 48, 96, 28_584_144),
    "densenet169": ((6, 12, 32, 32), 32, 64, 14_078_688),
    "densenet201": ((6, 12, 48, 32), 32, 64, 19_907_808),
    "densenet121_long": ((6, 12, 24, 16), 32, 64, 7_945_440),
}
# layers in all: (growth rate, parameters)
_CIFAR10 = {52: (12, 261_318), 100: (12, 757_806), 190: (40, 25_498_100), 250: (24, 15_196_704)}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return DenseNets for ImageNet and for 32×32 images."""
    for name, (depths, growth_rate, width, params) in _IMAGENET.items():
        yield ModelSpec(
            name,
            _BCOS,
            family="densenet",
            summary="B-cos DenseNet for ImageNet",
            input=IMAGENET_LONG if name.endswith("_long") else IMAGENET,
            params=params,
            options={"depths": depths, "growth_rate": growth_rate, "width": width},
            checkpoint=checkpoint(name),
            recipe="imagenet_densenet121_long" if name.endswith("_long") else "imagenet_bcos_final",
        )
    for layers, (growth_rate, params) in _CIFAR10.items():
        name = f"cifar10_densenet{layers}"
        depths = ((layers - 4) // 6,) * 3  # two convolutions each, beside the stem, transitions and classifier
        yield ModelSpec(
            name,
            _BCOS,
            family="densenet",
            summary="B-cos DenseNet for 32×32 images",
            input=CIFAR10,
            num_classes=10,
            recipe="cifar10_resnet20",
            params=params,
            options={"depths": depths, "growth_rate": growth_rate, "width": 2 * growth_rate, "small_inputs": True},
        )
