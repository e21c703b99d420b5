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

_PARAMS = {
    "simple_vit_b_patch16_224": 86_901_504,
    "simple_vit_l_patch16_224": 178_787_328,
    "simple_vit_s_patch16_224": 22_217_088,
    "simple_vit_ti_patch16_224": 5_800_128,
    "standard_simple_vit_b_patch16_224": 86_378_728,
    "standard_simple_vit_l_patch16_224": 178_104_296,
    "standard_simple_vit_s_patch16_224": 21_956_200,
    "standard_simple_vit_ti_patch16_224": 5_670_184,
    "standard_vitc_b_patch1_14": 81_388_648,
    "standard_vitc_l_patch1_14": 167_541_352,
    "standard_vitc_s_patch1_14": 20_910_184,
    "standard_vitc_ti_patch1_14": 5_334_952,
    "vitc_b_patch1_14": 81_326_016,
    "vitc_l_patch1_14": 167_444_160,
    "vitc_s_patch1_14": 20_878_704,
    "vitc_ti_patch1_14": 5_318_712,
}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return transformers with patches and with a convolutional stem, and their plain baselines."""
    for size, (dim, depth, heads, stem) in _SIZES.items():
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
                    f"bcos_models.vit.builders:{builder}",
                    family="vit",
                    summary=summary,
                    input=input_spec,
                    params=_PARAMS.get(name),
                    options=options,
                    checkpoint=checkpoint(name),
                    recipe=f"imagenet_{prefix}vit{slow}",
                )
