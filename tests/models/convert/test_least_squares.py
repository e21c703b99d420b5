"""Kernels that make up for biases and means, and what each step of a conversion costs."""

import copy

import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosConv2d, BcosError, explain
from bcos_models import bcosify, recalibrate_norms
from bcos_models.convert.least_squares import fit_kernels
from bcos_models.convert.probe import probe_conversion

STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
MEAN, STD = (torch.tensor(v)[:, None, None] for v in STATISTICS.values())


class Block(nn.Module):
    """A residual block whose shortcut has a convolution of its own."""

    def __init__(self, channels, out):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)) + self.down(x))


class Network(nn.Module):
    """Convolutions with norms and biases, a residual block, a depthwise convolution, a hidden linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.act = nn.ReLU(inplace=True)
        self.block = Block(12, 16)
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.block(self.act(self.bn(self.stem(x))))
        return self.head(self.pool(self.depthwise(x).relu()).flatten(1))


@pytest.fixture(scope="module")
def plain():
    """A network whose biases and means matter, in eval mode."""
    torch.manual_seed(0)
    network = Network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network.depthwise.bias.data.uniform_(-0.5, 0.5)
    with torch.no_grad():
        network.train()
        for _ in range(30):
            network((smooth(32) - MEAN) / STD)
    return network.eval()


def smooth(count):
    coarse = torch.rand(count, 3, 4, 4)
    return nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear").clamp(0, 1)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return smooth(192)


def error(network, plain, images):
    """Of logits but for their mean, as a share of how they differ."""
    with torch.no_grad():
        wanted, got = plain((images - MEAN) / STD), network.eval()(AddInverse()(images))
    wanted, got = (logits - logits.mean() for logits in (wanted, got))
    return float((got - wanted).square().mean() / wanted.square().mean())


def test_fitted_kernels_bring_back_what_biases_and_means_gave(plain, images):
    options = {"b": 1.0, "image_size": 16, **STATISTICS}
    torch.manual_seed(2)
    others = smooth(64)
    before = error(bcosify(plain, **options), plain, others)
    network = bcosify(plain, fit_to=images, **options)
    after = error(network, plain, others)
    assert after < 0.15
    assert after < before / 4
    assert any(note == "5 layers were fitted to 192 images" for note in network.conversion.notes)
    e = explain(network, AddInverse()(others[:4]))
    assert set(e.bias_terms) == {"logit bias"}
    assert (e.image_share == 1).all()


def test_first_layer_is_fitted_exactly_as_its_inputs_hold_a_constant(plain, images):
    network = bcosify(plain, b=1.0, image_size=16, fit_to=images, **STATISTICS).eval()
    x = AddInverse()(images[:8])
    with torch.no_grad():
        wanted = plain.bn(plain.stem((images[:8] - MEAN) / STD))
        got = network.network.bn(network.network.stem(x))
    inner = (..., slice(1, -1), slice(1, -1))  # at the border padding cuts the constant
    apart = (got - wanted)[inner].square().mean() / wanted[inner].square().mean()
    assert apart < 1e-2


def test_fitting_leaves_the_exponent_the_original_and_the_lengths_of_kernels(plain, images):
    before = copy.deepcopy(plain.state_dict())
    unfitted = bcosify(plain, b=2.0, image_size=16, **STATISTICS).eval()
    lengths = unfitted.network.block.conv.weight.flatten(1).norm(dim=1)
    network = copy.deepcopy(unfitted)
    assert fit_kernels(network, plain, images, **STATISTICS) == 5
    assert network.network.stem.b == 2.0
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())
    torch.testing.assert_close(network.network.block.conv.weight.flatten(1).norm(dim=1), lengths, rtol=1e-4, atol=1e-6)
    assert not torch.equal(network.network.block.conv.weight, unfitted.network.block.conv.weight)


def test_norms_are_measured_with_the_exponent_of_the_conversion(plain, images):
    network = bcosify(plain, b=2.0, image_size=16, fit_to=images, **STATISTICS).eval()
    fitted = copy.deepcopy(network.state_dict())
    recalibrate_norms(network, AddInverse()(images).tensor_split(3))
    assert len([name for name in fitted if "running_var" in name]) == 3
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, fitted[name])
    assert network.conversion.measured_on == "16 of these images"
    assert network.conversion.image_share == 1


def test_layers_that_have_lost_nothing_are_not_fitted(plain, images):
    kept = {"keep_bias": True, "keep_norms": True, "keep_pooling": True}
    network = bcosify(plain, b=1.0, image_size=16, fit_to=images, **kept, **STATISTICS)
    assert any(note.startswith("0 layers were fitted") for note in network.conversion.notes)


@pytest.mark.parametrize("given", [torch.rand(1, 3, 16, 16), torch.rand(4, 6, 16, 16), torch.rand(3, 16, 16)])
def test_too_few_or_other_images_are_refused(plain, given):
    with pytest.raises(BcosError, match=r"fitted to at least two images \(N, 3, H, W\) in \[0, 1\], got \("):
        bcosify(plain, image_size=16, fit_to=given, **STATISTICS)


def test_transformer_is_fitted(transformer, images):
    transformer = transformer.float().eval()
    options = {"b": 1.0, "image_size": 16, **STATISTICS}
    network = bcosify(transformer, fit_to=images, **options)
    assert not any(note.startswith("0 layers") for note in network.conversion.notes)
    assert error(network, transformer, images) < error(bcosify(transformer, **options), transformer, images)


def test_probe_tells_what_each_step_costs(plain, images):
    labels = plain((images - MEAN) / STD).argmax(1)
    fitted = bcosify(plain, image_size=16, fit_to=images[64:], **STATISTICS)
    kept = copy.deepcopy(fitted.state_dict())
    steps = list(probe_conversion(plain, images[:64], labels=labels[:64], fitted=fitted, **STATISTICS))
    assert all(torch.equal(value, kept[name]) for name, value in fitted.state_dict().items())
    assert {layer.b for layer in fitted.modules() if isinstance(layer, BcosConv2d)} == {2.0}
    names = [step.name for step in steps]
    assert names == ["as it is", "norms uncentred", "biases removed", "kernels fitted", "B = 1.5", "B = 2"]
    first, fitted = steps[0], steps[3]
    assert (first.agreement, first.accuracy, first.spread) == (1, 1, 1)
    assert fitted.agreement >= steps[2].agreement
    assert abs(fitted.spread - 1) < abs(steps[2].spread - 1) / 4
    assert first.image_share < 0.9
    assert fitted.image_share == steps[-1].image_share == 1


def test_probe_follows_the_options(plain, images):
    steps = list(probe_conversion(plain, images[:16], b=1.0, keep_norms=True, **STATISTICS))
    assert [(step.name, step.accuracy) for step in steps] == [("as it is", None), ("biases removed", None)]
    with pytest.raises(BcosError, match=r"at least two images, got 1"):
        next(probe_conversion(plain, images[:1], **STATISTICS))
