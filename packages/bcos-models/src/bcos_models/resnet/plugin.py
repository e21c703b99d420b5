"""The ResNet family's descriptions. Imports no torch."""

from collections.abc import Iterable, Iterator

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import CIFAR10, CIFAR10_STANDARDIZED, IMAGENET, IMAGENET_LONG, InputSpec, ModelSpec

# name: (block, depths, groups, base width, parameters)
_ARCHITECTURES: dict[str, tuple[str, tuple[int, ...], int, int, int]] = {
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64, 11_693_120),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64, 21_797_568),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64, 25_538_880),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64, 44_504_896),
    "resnet152": ("bottleneck", (3, 8, 36, 3), 1, 64, 60_125_504),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4, 25_003_200),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8, 88_698_304),
    "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3), 1, 128, 68_857_536),
    "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3), 1, 128, 126_826_176),
    "resnet50_long": ("bottleneck", (3, 4, 6, 3), 1, 64, 25_538_880),
    "resnet152_long": ("bottleneck", (3, 8, 36, 3), 1, 64, 60_125_504),
}
_OWN_RECIPES = {"resnext50_32x4d": "imagenet_resnext50_32x4d"}
# depth: parameters of the B-cos network, and of the plain one
_CIFAR_RESNETS = {
    20: (272_112, 272_474),
    32: (466_096, 466_906),
    44: (660_080, 661_338),
    56: (854_064, 855_770),
    110: (1_726_992, 1_730_714),
}
# name: (blocks of a stage, width of the stem, groups, base width, parameters)
_CIFAR_RESNEXTS = {
    "29_8x64d": (3, 64, 8, 64, 34_399_680),
    "29_16x64d": (3, 64, 16, 64, 68_106_688),
    "29_32x4d": (3, 16, 32, 4, 302_736),
    "47_32x4d": (5, 16, 32, 4, 488_656),
    "65_32x4d": (7, 16, 32, 4, 674_576),
    "101_32x4d": (11, 16, 32, 4, 1_046_416),
    "29_16x8d": (3, 16, 16, 8, 320_880),
    "47_16x8d": (5, 16, 16, 8, 518_896),
    "65_16x8d": (7, 16, 16, 8, 716_912),
    "101_16x8d": (11, 16, 16, 8, 1_112_944),
}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return networks for ImageNet and for CIFAR-10, and plain baselines for the latter."""
    yield from _imagenet()
    yield from _cifar10_resnets()
    yield from _cifar10_resnexts()


def _spec(name: str, what: str, images: InputSpec, params: int, recipe: str, **options: object) -> ModelSpec:
    return ModelSpec(
        name,
        f"bcos_models.resnet.network:{'plain' if name.startswith('standard_') else 'bcos'}_resnet",
        family="resnet",
        summary=what,
        input=images,
        num_classes=10 if images.size == CIFAR10.size else 1000,
        params=params,
        options=options,
        checkpoint=checkpoint(name),
        recipe=recipe,
    )


def _imagenet() -> Iterator[ModelSpec]:
    for name, (block, depths, groups, base_width, params) in _ARCHITECTURES.items():
        options = {"block": block, "depths": depths, "groups": groups, "base_width": base_width}
        if name.endswith("_long"):  # weights of the long training recipe, and its stochastic depth
            what, recipe = "B-cos ResNet for ImageNet, long training recipe", "imagenet_bcos_final_long"
            yield _spec(name, what, IMAGENET_LONG, params, recipe, **options, drop_path=0.1)
        else:
            recipe = _OWN_RECIPES.get(name, "imagenet_bcos_final")
            yield _spec(name, "B-cos ResNet for ImageNet", IMAGENET, params, recipe, **options)


def _cifar10_resnets() -> Iterator[ModelSpec]:
    for depth, (params, plain_params) in _CIFAR_RESNETS.items():
        blocks = (depth - 2) // 6  # three stages of blocks with two convolutions each
        options = {"block": "basic", "depths": (blocks,) * 3, "width": 16, "small_inputs": True}
        name, what, recipe = f"cifar10_resnet{depth}", "ResNet for 32×32 images", "cifar10_resnet20"
        yield _spec(name, f"B-cos {what}", CIFAR10, params, recipe, **options)
        what, recipe = f"plain {what}, a baseline", f"standard_{recipe}"
        yield _spec(f"standard_{name}", what, CIFAR10_STANDARDIZED, plain_params, recipe, **options)


def _cifar10_resnexts() -> Iterator[ModelSpec]:
    for variant, (blocks, width, groups, base_width, params) in _CIFAR_RESNEXTS.items():
        options = {"depths": (blocks,) * 3, "width": width, "groups": groups, "base_width": base_width}
        name, what = f"cifar10_resnext{variant}", "B-cos ResNeXt for 32×32 images"
        yield _spec(name, what, CIFAR10, params, "cifar10_resnet20", block="bottleneck", small_inputs=True, **options)
