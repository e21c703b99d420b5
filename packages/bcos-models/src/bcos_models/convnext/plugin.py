"""The ConvNeXt family's descriptions. Imports no torch."""

from collections.abc import Iterable

from bcos_models.checkpoints import checkpoint
from bcos_models.hookspecs import hookimpl
from bcos_models.spec import IMAGENET_LONG, ModelSpec

# size: (depths, widths, stochastic depth, parameters)
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], float, int]] = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320), 0.1, 3_682_320),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 0.1, 28_543_392),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 0.4, 50_129_568),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 0.5, 88_466_304),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536), 0.5, 197_580_096),
}
_NORMS = {"": ("position", "with position norm"), "_bnu": ("batch_uncentered", "with uncentred batch norm")}


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return ConvNeXts for ImageNet, with either norm."""
    for size, (depths, widths, drop_path, params) in _SIZES.items():
        for suffix, (norm, what) in _NORMS.items():
            name = f"convnext_{size}{suffix}"
            yield ModelSpec(
                name,
                "bcos_models.convnext.network:ConvNeXt",
                family="convnext",
                summary=f"B-cos ConvNeXt for ImageNet, {what}",
                input=IMAGENET_LONG,
                params=params,
                options={"depths": depths, "widths": widths, "drop_path": drop_path, "norm": norm},
                checkpoint=checkpoint(name),
                recipe="imagenet_bcos_final_long",
            )
