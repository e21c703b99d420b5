"""Checkpoints by the name of their model: of the B-cos authors, trained on ImageNet, and ours. Imports no torch.

Source: the releases of B-cos-v2 (github.com/B-cos/B-cos-v2); accuracies as published there. Ours come with this
package, each with a model card beside it in ``trained/``.
"""

from bcos_models.spec import Checkpoint

BASE = "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights"
LICENSE = (
    "weights by the B-cos authors, trained on ImageNet, whose terms allow non-commercial research and education only"
)

# file name (with the first digits of its SHA-256), top-1 and top-5 accuracy in %
_FILES: dict[str, tuple[str, float, float]] = {
    "resnet18": ("resnet_18-68b4160fff.pth", 68.736, 87.430),
    "resnet34": ("resnet_34-a63425a03e.pth", 72.284, 90.052),
    "resnet50": ("resnet_50-ead259efe4.pth", 75.882, 92.528),
    "resnet101": ("resnet_101-84c3658278.pth", 76.532, 92.538),
    "resnet152": ("resnet_152-42051a77c1.pth", 76.484, 92.398),
    "resnext50_32x4d": ("resnext_50_32x4d-57af241ab9.pth", 75.820, 91.810),
    "densenet121": ("densenet_121-b8daf96afb.pth", 73.612, 91.106),
    "densenet161": ("densenet_161-9e9ea51353.pth", 76.622, 92.554),
    "densenet169": ("densenet_169-7037ee0604.pth", 75.186, 91.786),
    "densenet201": ("densenet_201-00ac87066f.pth", 75.480, 91.992),
    "vgg11_bnu": ("vgg_11_bnu-34036029f0.pth", 69.310, 88.388),
    "convnext_tiny": ("convnext_tiny_pn-539b1bfb37.pth", 77.488, 93.192),
    "convnext_base": ("convnext_base_pn-b0495852c6.pth", 79.650, 94.614),
    "convnext_tiny_bnu": ("convnext_tiny_bnu-dbd7f5ef9d.pth", 76.826, 93.090),
    "convnext_base_bnu": ("convnext_base_bnu-7c32a704b3.pth", 80.142, 94.834),
    "densenet121_long": ("densenet_121_long-5175461597.pth", 77.302, 93.234),
    "resnet50_long": ("resnet_50_long-ef38a88533.pth", 79.468, 94.452),
    "resnet152_long": ("resnet_152_long-0b4b434939.pth", 80.144, 94.116),
    "simple_vit_ti_patch16_224": ("bcos_simple_vit_ti_patch16_224-4b0824b1c1.pth", 59.960, 81.838),
    "simple_vit_s_patch16_224": ("bcos_simple_vit_s_patch16_224-75e99d1f73.pth", 69.246, 88.096),
    "simple_vit_b_patch16_224": ("bcos_simple_vit_b_patch16_224-1fc4750806.pth", 74.408, 91.156),
    "simple_vit_l_patch16_224": ("bcos_simple_vit_l_patch16_224-9613b2ad0a.pth", 75.060, 91.378),
    "vitc_ti_patch1_14": ("bcos_vitc_ti_patch1_14-ddd6193a77.pth", 67.260, 86.774),
    "vitc_s_patch1_14": ("bcos_vitc_s_patch1_14-cf55c88f0c.pth", 74.504, 91.288),
    "vitc_b_patch1_14": ("bcos_vitc_b_patch1_14-a13c46397b.pth", 77.152, 92.926),
    "vitc_l_patch1_14": ("bcos_vitc_l_patch1_14-8739e18b8d.pth", 77.782, 92.966),
    "standard_simple_vit_ti_patch16_224": ("standard_simple_vit_ti_patch16_224-2ae8c65a39.pth", 70.230, 89.380),
    "standard_simple_vit_s_patch16_224": ("standard_simple_vit_s_patch16_224-f2934fcdcf.pth", 74.470, 91.226),
    "standard_simple_vit_b_patch16_224": ("standard_simple_vit_b_patch16_224-87074200ed.pth", 75.300, 91.026),
    "standard_simple_vit_l_patch16_224": ("standard_simple_vit_l_patch16_224-62dc536e03.pth", 75.710, 90.050),
    "standard_vitc_ti_patch1_14": ("standard_vitc_ti_patch1_14-a5d6bded37.pth", 72.590, 90.788),
    "standard_vitc_s_patch1_14": ("standard_vitc_s_patch1_14-34ecd7288e.pth", 75.756, 91.994),
    "standard_vitc_b_patch1_14": ("standard_vitc_b_patch1_14-4d374b0220.pth", 76.790, 92.024),
    "standard_vitc_l_patch1_14": ("standard_vitc_l_patch1_14-560e48f246.pth", 77.866, 92.298),
}

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_OURS = {
    "cifar10_resnet20": Checkpoint(
        "package:bcos_models/trained/cifar10_resnet20.safetensors",
        sha256="f86e5a21b33c8917ffbf39fd2a85799db0fe0e22a616b05486c636144e049bce",
        top1=85.73,
        license="Apache-2.0",
        class_names=CIFAR10_CLASSES,
    ),
}


def checkpoint(name: str) -> Checkpoint | None:
    """Weights of the model called `name`, if there are any."""
    if name in _OURS or name not in _FILES:
        return _OURS.get(name)
    file, top1, top5 = _FILES[name]
    digits = file.removesuffix(".pth").rpartition("-")[2]
    return Checkpoint(f"{BASE}/{file}", sha256=digits, top1=top1, top5=top5, license=LICENSE)
