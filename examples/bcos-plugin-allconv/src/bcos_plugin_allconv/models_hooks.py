"""What the package adds to bcos-models. Imports no torch: ``bcos models`` loads every plugin."""

from collections.abc import Iterable

from bcos_models import InputSpec, ModelSpec, hookimpl


@hookimpl
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return one small network for 32×32 images."""
    yield ModelSpec(
        name="allconv_mini",
        builder="bcos_plugin_allconv.network:allconv",
        family="allconv",
        summary="B-cos All-CNN for 32×32 images (a plugin)",
        input=InputSpec(size=32, resize=None),
        num_classes=10,
        options={"widths": (16, 32, 64)},
        recipe="cifar10_resnet20",
    )
