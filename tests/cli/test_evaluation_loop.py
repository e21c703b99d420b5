"""What passes through a network when a split is evaluated."""

import torch
from torch import nn

from bcos_cli.explain.inference import for_inference
from bcos_core import BcosConv2d
from bcos_models import create_model


def test_b_cos_network_is_folded_and_gives_the_same():
    torch.manual_seed(0)
    model = create_model("cifar10_resnet20")
    x = torch.rand(4, 6, 32, 32)
    model(x)  # norms get statistics
    model.eval()
    state = torch.get_rng_state()
    quick = for_inference(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert quick is not model
    convolutions = [module for module in quick.modules() if isinstance(module, BcosConv2d)]
    assert {module.normalize_weight for module in convolutions} == {None}
    assert {module.normalize_weight for module in model.modules() if isinstance(module, BcosConv2d)} == {True}
    with torch.inference_mode():
        torch.testing.assert_close(quick(x), model(x), rtol=1e-4, atol=1e-5)


def test_other_networks_stay():
    plain = nn.Sequential(nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert for_inference(plain, torch.rand(1, 6, 4, 4)) is plain


def test_network_that_cannot_be_folded_stays():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = BcosConv2d(6, 3, 1), 0

        def forward(self, x):
            self.calls += 1
            return self.conv(x).mean((2, 3)) * self.calls

    model = Counts().eval()
    assert for_inference(model, torch.rand(1, 6, 4, 4)) is model
