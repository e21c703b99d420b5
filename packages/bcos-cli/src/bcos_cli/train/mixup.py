"""Mixup and CutMix of the images and labels of a batch."""

from timm.data import Mixup  # type: ignore[attr-defined] # reason: timm exports implicitly

from bcos_cli.config import Mixing


def make_mixup(config: Mixing, num_classes: int, multi_label: bool) -> Mixup | None:
    """Return timm's mixup and CutMix, if the recipe asks for either."""
    if not config.mixup and not config.cutmix:
        return None
    return Mixup(  # type: ignore[no-untyped-call] # reason: timm's
        config.mixup,
        config.cutmix,
        prob=config.probability,
        label_smoothing=0.0,  # losses smooth labels
        num_classes=num_classes,
        multi_label=multi_label,
    )
