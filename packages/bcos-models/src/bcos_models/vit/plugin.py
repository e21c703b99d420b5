"""The transformers' descriptions. Imports no torch."""

from collections.abc import Iterable

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import IMAGENET, IMAGENET_STANDARDIZED, ModelSpec

# size: (features, depth, heads, channels of the convolutional stem)
_SIZES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "ti": (192, 12, 3, (24, 48, 96, 192)),
    "s": (384, 12, 6, (48, 96, 192, 384)),
    "b": (768, 12, 12, (64, 128, 128, 256, 256, 512)),
    "l": (1024, 14, 16, (64, 128, 128, 256, 256, 512)),
}
# size: parameters of the B-cos network and of the plain one, with patches; then with the stem
_PARAMS = {
    "ti": (5_800_128, 5_670_184, 5_318_712, 5_334_952),
    "s": (22_217_088, 21_956_200, 20_878_704, 20_910_184),
    "b": (86_901_504, 86_378_728, 81_326_016, 81_388_648),
    "l": (178_787_328, 178_104_296, 167_444_160, 167_541_352),
}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return transformers with patches and with a convolutional stem, and their plain baselines."""
    for size, (dim, depth, heads, stem) in _SIZES.items():
        params = iter(_PARAMS[size])
        common = {"dim": dim, "heads": heads}
        patches: dict[str, object] = {**common, "depth": depth, "patch": 16}
        convolutions: dict[str, object] = {**common, "depth": depth - 1, "patch": 1, "stem": stem}
        for architecture, options, what in (
            (f"simple_vit_{size}_patch16_224", patches, "SimpleViT"),
            (f"vitc_{size}_patch1_14", convolutions, "SimpleViT with convolutional stem"),
        ):
            for prefix, builder, summary, input_spec in (
                ("", "bcos_vit", f"B-cos {what} for ImageNet", IMAGENET),
                ("standard_", "plain_vit", f"plain {what} for ImageNet, a baseline", IMAGENET_STANDARDIZED),
            ):
                name = f"{prefix}{architecture}"
                slow = "_large" if size == "l" or (size == "b" and options is patches) else ""  # a longer warm-up
                yield ModelSpec(
                    name,
                    f"bcos_models.vit.network:{builder}",
                    family="vit",
                    summary=summary,
                    input=input_spec,
                    params=next(params),
                    options=options,
                    checkpoint=checkpoint(name),
                    recipe=f"imagenet_{prefix}vit{slow}",
                )
