"""The plain networks are torchvision's, with the classifier before the pooling."""

import pytest
import torch
import torchvision

from bcos_models.resnet.network import plain_resnet

NETS = {
    "resnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnext50_32x4d": {"block": "bottleneck", "depths": (3, 4, 6, 3), "groups": 32, "base_width": 4},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if "50" in n else ()) for n in NETS])
def test_logits_are_torchvisions_with_its_weights(name):
    theirs = getattr(torchvision.models, name)(num_classes=11)
    ours = plain_resnet(num_classes=11, **NETS[name])
    state = theirs.state_dict()
    state["fc.weight"] = state["fc.weight"][:, :, None, None]
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    ours, theirs = ours.double(), theirs.double()
    with torch.no_grad():
        ours.train(), theirs.train()
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)
        ours.eval(), theirs.eval()
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)
