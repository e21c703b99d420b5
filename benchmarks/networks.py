"""The networks that are measured, each on three sides: plain, ours, and the reference's."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

PLAIN, OURS, REFERENCE = SIDES = ("plain", "ours", "reference")


@dataclass(frozen=True)
class Network:
    """One network; builders take nothing, so that it travels into a process by its name."""

    build: dict[str, Callable[[], nn.Module]]
    """By side, where there is one."""
    size: int = 224
    classes: int = 1000
    batch: int = 4
    """Images of a training step and of inference, on a CPU."""


def _ours(name: str) -> nn.Module:
    from bcos_models import create_model

    return create_model(name)


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    made: nn.Module = models.get_model(name, weights=None)
    return made


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def _converted(name: str) -> nn.Module:
    from bcos_models import bcosify

    return bcosify(_timm(name).eval())


def _reference(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bcos.models import pretrained, resnet
        from bcos.modules import norms

        if name == "cifar10_resnet20":
            small: nn.Module = resnet.cifar10_resnet20(
                norm_layer=norms.NoBias(norms.BatchNormUncentered2d), num_classes=10
            )
            return small
        made: nn.Module = getattr(pretrained, name)(pretrained=False)
        return made


def _beside(name: str, plain: Callable[[], nn.Module], **what: Any) -> Network:
    return Network({PLAIN: plain, OURS: partial(_ours, name), REFERENCE: partial(_reference, name)}, **what)


def _convertible(name: str) -> Network:
    return Network({PLAIN: partial(_timm, name), OURS: partial(_converted, name)})


NETWORKS: dict[str, Network] = {
    "cifar10_resnet20": _beside(
        "cifar10_resnet20", partial(_ours, "standard_cifar10_resnet20"), size=32, classes=10, batch=64
    ),
    "resnet50": _beside("resnet50", partial(_torchvision, "resnet50")),
    "densenet121": _beside("densenet121", partial(_torchvision, "densenet121")),
    "convnext_tiny": _beside("convnext_tiny", partial(_torchvision, "convnext_tiny")),
    "simple_vit_s_patch16_224": _beside(
        "simple_vit_s_patch16_224", partial(_ours, "standard_simple_vit_s_patch16_224")
    ),
    "vitc_s_patch1_14": _beside("vitc_s_patch1_14", partial(_ours, "standard_vitc_s_patch1_14")),
    "timm/tf_efficientnet_lite0": _convertible("tf_efficientnet_lite0"),
    "timm/deit_tiny_patch16_224": _convertible("deit_tiny_patch16_224"),
}
"""Those of timm are converted, and beside them stands the network as it was; the reference has none."""
QUICK = ("cifar10_resnet20",)
