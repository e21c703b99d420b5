"""Options of the ResNet builders do what they say."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from bcos_core import BcosConv2d, BcosError, LogitLayer, explain, norms
from bcos_models import create_model

SMALL = {"depths": (1, 1), "width": 4}
NAME = "cifar10_resnet20"


def small(**options):
    return create_model(NAME, **{**SMALL, **options})


def convs(model):
    return [m for m in model.modules() if isinstance(m, BcosConv2d)]


@pytest.mark.parametrize("b", [1.0, 1.25, 2.5])
def test_b_is_that_of_every_convolution(b):
    assert {m.b for m in convs(small(b=b))} == {b}


def test_b_equal_one_is_linear_between_norms():
    model = small(b=1, norm_affine="plain", logit_bias=None).double().eval()
    x = torch.rand(2, 6, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(3 * x), 3 * model(x), rtol=1e-10, atol=0)
    curved = small(b=2, norm_affine="plain", logit_bias=None).double().eval()
    assert not torch.allclose(curved(x[:1] + x[1:]), curved(x[:1]) + curved(x[1:]))


def test_max_out_multiplies_the_weights():
    one, two = small(), small(max_out=2)
    for a, b in zip(convs(one), convs(two), strict=True):
        assert b.max_out == 2
        assert b.weight.numel() == 2 * a.weight.numel()
    x = torch.rand(1, 6, 8, 8)
    assert two.eval()(x).shape == one.eval()(x).shape


@pytest.mark.parametrize("affine", ["affine", "linear", "plain"])
@pytest.mark.parametrize("norm", norms.norm_names())
def test_every_norm_makes_an_exact_network(norm, affine):
    model = small(norm=norm, norm_affine=affine, width=32).double()
    x = torch.rand(4, 6, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        model(x)
    e = explain(model.eval(), x, 1)
    scale = e.contributions.abs().flatten(1).sum(1) + e.score.abs() + e.bias.abs()
    assert ((e.map.sum((1, 2)) + e.bias - e.logits[:, 1]).abs() <= 1e-9 * scale).all()
    found = [m for n, m in model.named_modules() if n.rpartition(".")[2] in ("bn1", "bn2")]
    assert len(found) == 5
    kinds = {"affine": {"weight", "bias"}, "linear": {"weight"}, "plain": set()}[affine]
    assert all({n for n, _ in m.named_parameters()} == kinds for m in found)


def test_logit_bias_is_added_and_auto_is_one_over_k():
    x = torch.rand(2, 6, 8, 8)
    torch.manual_seed(1)
    without = small(logit_bias=None).eval()
    torch.manual_seed(1)
    with_five = small(logit_bias=5.0).eval()
    torch.testing.assert_close(with_five(x), without(x) + 5)
    logit = next(m for m in small(num_classes=4).modules() if isinstance(m, LogitLayer)).logit_bias
    assert logit == pytest.approx(-math.log(3))


def test_one_class_has_no_automatic_bias():
    assert next(m for m in small(num_classes=1).modules() if isinstance(m, LogitLayer)).logit_bias is None


def test_logit_temperature_divides_before_the_bias():
    x = torch.rand(2, 6, 8, 8)
    torch.manual_seed(1)
    plain = small(logit_bias=None).eval()
    torch.manual_seed(1)
    hot = small(logit_bias=1.0, logit_temperature=4.0).eval()
    torch.testing.assert_close(hot(x), plain(x) / 4 + 1)


def test_drop_path_grows_linearly_and_acts_in_training_only():
    model = create_model(NAME, depths=(2, 2, 1), width=4, drop_path=0.4).double()
    rates = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])  # the first block is never dropped
    x = torch.rand(8, 6, 8, 8, dtype=torch.float64)
    model.eval()
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    for m in model.modules():
        if hasattr(m, "running_var"):
            m.eval()
    for m in model.modules():
        if isinstance(m, StochasticDepth):
            m.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", [NAME, "standard_cifar10_resnet20"])
@pytest.mark.parametrize("in_chans", [1, 2, 9])
def test_channels_and_classes_are_free(name, in_chans):
    model = create_model(name, num_classes=3, in_chans=in_chans, **SMALL).eval()
    assert model(torch.rand(2, in_chans, 8, 8)).shape == (2, 3)
    assert model.get_classifier().weight.shape[0] == 3
    assert model.num_features == 8
    assert model.forward_features(torch.rand(2, in_chans, 8, 8)).shape == (2, 8, 4, 4)


def test_b_cos_network_has_no_plain_layers_and_no_bias():
    model = create_model("resnet18", width=8)
    assert not any(isinstance(m, nn.Conv2d | nn.ReLU | nn.BatchNorm2d | nn.MaxPool2d) for m in model.modules())
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bb": 2}, r"the model 'cifar10_resnet20' has no option 'bb'; did you mean 'b'\?"),
        ({"maxout": 2}, r"has no option 'maxout'; did you mean 'max_out'\?"),
        ({"zzz": 2}, r"has no option 'zzz'; choose from block, depths, "),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"depths": ()}, r"depths must name at least one block for every stage, got \(\)"),
        ({"depths": (1, 0)}, r"depths must name at least one block .*got \(1, 0\)"),
        ({"width": 0}, "width must be at least 1, got 10, 6 and 0"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be in \[0, 1\), got -0.1"),
        ({"block": "basicc"}, r"block must be one of \('basic', 'bottleneck'\), got 'basicc'"),
        ({"norm": "batch_uncentred"}, "batch_uncentered"),
        ({"norm_affine": "both"}, "both"),
        ({"b": 0.5}, "0.5"),
        ({"max_out": 0}, "max_out must be at least 1, got 0"),
        ({"groups": 2}, "groups"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(BcosError, match=message):
        create_model(NAME, **options)


def test_bias_of_a_plain_network_is_no_option_of_b_cos_and_the_other_way_round():
    with pytest.raises(BcosError, match="has no option 'b'; choose from"):
        create_model("standard_cifar10_resnet20", b=2)
