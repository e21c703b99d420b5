"""Every explainer on real architectures: B-cos, converted, and as they are."""

import pytest
import torch
import torchvision

from bcos_core import AddInverse
from bcos_explain import get_explainer, list_explainers
from bcos_explain.explainers import attribute, collect_remarks
from bcos_models import create_model

QUICK = {
    "integrated_gradients": {"n_steps": 3},
    "lime": {"n_samples": 12},
    "rise": {"n_masks": 6, "p": 0.5},
    "smoothgrad": {"n_samples": 2},
}
NETWORKS = {
    "bcos": (lambda: create_model("cifar10_resnet20", depths=[1, 1, 1]), 6, 32),
    "bcos_vit": (lambda: create_model("simple_vit_ti_patch16_224"), 6, 224),
    "converted": (lambda: create_model("timm/resnet18", num_classes=10, b=1.0), 6, 64),
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=10), 3, 64),
    "timm_vit": (
        lambda: __import__("timm").create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=10),
        3,
        64,
    ),
    "timm_convnext": (lambda: __import__("timm").create_model("convnext_atto", num_classes=10), 3, 64),
}
TRANSFORMERS = {"bcos_vit", "timm_vit"}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_explainer_works_on(network):
    build, channels, size = NETWORKS[network]
    model = build().train()
    with torch.no_grad():
        for _ in range(3):  # an untrained network has no signal before its norms know the data
            model(torch.rand(8, channels, size, size))
    model.eval()
    x = torch.rand(1, 3, size, size)
    x = AddInverse()(x) if channels == 6 else x
    for name in list_explainers():
        if name == "attention_rollout" and network not in TRANSFORMERS:
            continue
        options = {"window": size // 4} if name == "occlusion" else QUICK.get(name, {})
        with collect_remarks() as remarks:
            maps = attribute(get_explainer(name, **options), model, x, torch.arange(4)[None])
        assert not any("cancel" in r.text for r in remarks), name
        assert maps.shape == (1, 4, size, size), name
        assert maps.isfinite().all(), name
        assert maps[0].std((1, 2)).max() > 0, name  # Grad-CAM may be blank for some class
        assert name == "attention_rollout" or not torch.equal(maps[0, :-1], maps[0, 1:]), name
