"""The ResNet family's descriptions. Imports no torch."""

from collections.abc import Iterable, Iterator

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import CIFAR10, CIFAR10_STANDARDIZED, IMAGENET, IMAGENET_LONG, ModelSpec

_BCOS = "bcos_models.resnet.builders:bcos_resnet"
_PLAIN = "bcos_models.resnet.builders:plain_resnet"

# name: (block, depths, groups, base width)
_ARCHITECTURES: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64),
    "resnet152": ("bottleneck", (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8),
    "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3), 1, 128),
    "resnet50_long": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet152_long": ("bottleneck", (3, 8, 36, 3), 1, 64),
}
_OWN_RECIPES = {"resnext50_32x4d": "imagenet_resnext50_32x4d"}
_CIFAR_DEPTHS = (20, 32, 44, 56, 110)
# name: (blocks of a stage, width of the stem, groups, base width)
_CIFAR_RESNEXTS = {
    "29_8x64d": (3, 64, 8, 64),
    "29_16x64d": (3, 64, 16, 64),
    **{f"{depth}_32x4d": ((depth - 2) // 9, 16, 32, 4) for depth in (29, 47, 65, 101)},
    **{f"{depth}_16x8d": ((depth - 2) // 9, 16, 16, 8) for depth in (29, 47, 65, 101)},
}

_PARAMS = {
    "cifar10_resnet110": 1_726_992,
    "cifar10_resnet20": 272_112,
    "cifar10_resnet32": 466_096,
    "cifar10_resnet44": 660_080,
    "cifar10_resnet56": 854_064,
    "cifar10_resnext101_16x8d": 1_112_944,
    "cifar10_resnext101_32x4d": 1_046_416,
    "cifar10_resnext29_16x64d": 68_106_688,
    "cifar10_resnext29_16x8d": 320_880,
    "cifar10_resnext29_32x4d": 302_736,
    "cifar10_resnext29_8x64d": 34_399_680,
    "cifar10_resnext47_16x8d": 518_896,
    "cifar10_resnext47_32x4d": 488_656,
    "cifar10_resnext65_16x8d": 716_912,
    "cifar10_resnext65_32x4d": 674_576,
    "resnet101": 44_504_896,
    "resnet152": 60_125_504,
    "resnet152_long": 60_125_504,
    "resnet18": 11_693_120,
    "resnet34": 21_797_568,
    "resnet50": 25_538_880,
    "resnet50_long": 25_538_880,
    "resnext101_32x8d": 88_698_304,
    "resnext50_32x4d": 25_003_200,
    "standard_cifar10_resnet110": 1_730_714,
    "standard_cifar10_resnet20": 272_474,
    "standard_cifar10_resnet32": 466_906,
    "standard_cifar10_resnet44": 661_338,
    "standard_cifar10_resnet56": 855_770,
    "wide_resnet101_2": 126_826_176,
    "wide_resnet50_2": 68_857_536,
}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return networks for ImageNet and for CIFAR-10, and plain baselines for the latter."""
    yield from _imagenet()
    yield from _cifar10_resnets()
    yield from _cifar10_resnexts()


def _imagenet() -> Iterator[ModelSpec]:
    for name, (block, depths, groups, base_width) in _ARCHITECTURES.items():
        long = name.endswith("_long")  # weights of the long training recipe, and its stochastic depth
        yield ModelSpec(
            name,
            _BCOS,
            family="resnet",
            summary="B-cos ResNet for ImageNet" + (", long training recipe" if long else ""),
            input=IMAGENET_LONG if long else IMAGENET,
            params=_PARAMS.get(name),
            options={
                "block": block,
                "depths": depths,
                "groups": groups,
                "base_width": base_width,
                **({"drop_path": 0.1} if long else {}),
            },
            checkpoint=checkpoint(name),
            recipe=_OWN_RECIPES.get(name, "imagenet_bcos_final_long" if long else "imagenet_bcos_final"),
        )


def _cifar10_resnets() -> Iterator[ModelSpec]:
    for depth in _CIFAR_DEPTHS:
        blocks = (depth - 2) // 6  # three stages of blocks with two convolutions each
        options = {"block": "basic", "depths": (blocks,) * 3, "width": 16, "small_inputs": True}
        for prefix, builder, what, size in (
            ("", _BCOS, "B-cos ResNet for 32×32 images", CIFAR10),
            ("standard_", _PLAIN, "plain ResNet for 32×32 images, a baseline", CIFAR10_STANDARDIZED),
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
                recipe=f"{prefix}cifar10_resnet20",
            )


def _cifar10_resnexts() -> Iterator[ModelSpec]:
    for variant, (blocks, width, groups, base_width) in _CIFAR_RESNEXTS.items():
        name = f"cifar10_resnext{variant}"
        yield ModelSpec(
            name,
            _BCOS,
            family="resnet",
            summary="B-cos ResNeXt for 32×32 images",
            input=CIFAR10,
            num_classes=10,
            recipe="cifar10_resnet20",
            params=_PARAMS.get(name),
            options={
                "block": "bottleneck",
                "depths": (blocks,) * 3,
                "width": width,
                "groups": groups,
                "base_width": base_width,
                "small_inputs": True,
            },
        )
