"""The ResNet family's descriptions. Imports no torch."""

from collections.abc import Iterable, Iterator

from bcos_models.hookspecs import hookimpl
from bcos_models.spec import InputSpec, ModelSpec

_BCOS = "bcos_models.resnet.builders:bcos_resnet"
_PLAIN = "bcos_models.resnet.builders:plain_resnet"

_CIFAR10 = InputSpec(size=32, resize=None)
_CIFAR10_STANDARDIZED = InputSpec(
    size=32, resize=None, encoding="standardize", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)

# name: (block, depths, groups, base width)
_IMAGENET: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64),
    "resnet152": ("bottleneck", (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8),
    "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3), 1, 128),
}
_CIFAR_DEPTHS = (20, 32, 44, 56, 110)

_PARAMS = {
    "resnet18": 11_693_120,
    "resnet34": 21_797_568,
    "resnet50": 25_538_880,
    "resnet101": 44_504_896,
    "resnet152": 60_125_504,
    "resnext50_32x4d": 25_003_200,
    "resnext101_32x8d": 88_698_304,
    "wide_resnet50_2": 68_857_536,
    "wide_resnet101_2": 126_826_176,
    "cifar10_resnet20": 272_112,
    "cifar10_resnet32": 466_096,
    "cifar10_resnet44": 660_080,
    "cifar10_resnet56": 854_064,
    "cifar10_resnet110": 1_726_992,
    "standard_cifar10_resnet20": 272_474,
    "standard_cifar10_resnet32": 466_906,
    "standard_cifar10_resnet44": 661_338,
    "standard_cifar10_resnet56": 855_770,
    "standard_cifar10_resnet110": 1_730_714,
}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return ResNets for ImageNet, for CIFAR-10, and their plain CIFAR-10 baselines."""
    yield from _imagenet()
    yield from _cifar10()


def _imagenet() -> Iterator[ModelSpec]:
    for name, (block, depths, groups, base_width) in _IMAGENET.items():
        yield ModelSpec(
            name,
            _BCOS,
            family="resnet",
            summary="B-cos ResNet for ImageNet",
            params=_PARAMS.get(name),
            options={"block": block, "depths": depths, "groups": groups, "base_width": base_width},
        )


def _cifar10() -> Iterator[ModelSpec]:
    for depth in _CIFAR_DEPTHS:
        blocks = (depth - 2) // 6  # three stages of blocks with two convolutions each
        options = {"block": "basic", "depths": (blocks,) * 3, "width": 16, "small_inputs": True}
        for prefix, builder, what, size in (
            ("", _BCOS, "B-cos ResNet for 32×32 images", _CIFAR10),
            ("standard_", _PLAIN, "plain ResNet for 32×32 images, a baseline", _CIFAR10_STANDARDIZED),
        ):
            name = f"{prefix}cifar10_resnet{depth}"
            yield ModelSpec(
                name,
                builder,
                family="resnet",
                summary=what,
                input=size,
                num_classes=10,
                params=_PARAMS.get(name),
                options=options,
            )
