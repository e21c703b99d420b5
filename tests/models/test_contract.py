"""What every registered model promises."""

import math
from importlib import import_module

import pytest
import torch

from bcos_core import explain
from bcos_core.losses import BinaryCrossEntropyLoss
from bcos_models import create_model, get_spec, list_models
from bcos_models.spec import ModelSpec

NAMES = list_models()
LIGHT = {
    "cifar10_resnet20",
    "cifar10_resnext29_16x8d",
    "cifar10_densenet52",
    "convnext_atto",
    "convnext_atto_bnu",
    "densenet121",
    "resnet18",
    "simple_vit_ti_patch16_224",
    "standard_cifar10_resnet20",
    "standard_simple_vit_ti_patch16_224",
    "standard_vitc_ti_patch1_14",
    "vitc_ti_patch1_14",
}
"""The smallest of each family; the others are slow."""
ALL = [pytest.param(name, marks=() if name in LIGHT else pytest.mark.slow) for name in NAMES]
LARGE = 60_000_000
"""Parameters of a network that explains one image only, for time's sake."""
POSITIONS = ("simple_vit", "vitc")


def test_every_model_of_the_reference_is_there():
    vits = {f"{p}{n}" for p in ("", "standard_") for s in ("ti", "s", "b", "l") for n in _vits(s)}
    assert vits | {*_cnns(), *_small()} == set(NAMES)


def _vits(size):
    return f"simple_vit_{size}_patch16_224", f"vitc_{size}_patch1_14"


def _cnns():
    yield from (f"resnet{d}" for d in (18, 34, 50, 101, 152, "50_long", "152_long"))
    yield from ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
    yield from (f"densenet{d}" for d in (121, 161, 169, 201, "121_long"))
    yield from (f"vgg{d}{norm}" for d in (11, 13, 16, 19) for norm in ("", "_bnu"))
    yield from (f"convnext_{s}{norm}" for s in ("atto", "tiny", "small", "base", "large") for norm in ("", "_bnu"))


def _small():
    yield from (f"{p}cifar10_resnet{d}" for p in ("", "standard_") for d in (20, 32, 44, 56, 110))
    yield from (f"cifar10_resnext29_{w}" for w in ("8x64d", "16x64d"))
    yield from (f"cifar10_resnext{d}_{w}" for d in (29, 47, 65, 101) for w in ("32x4d", "16x8d"))
    yield from (f"cifar10_densenet{d}" for d in (52, 100, 190, 250))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_described(name):
    spec = get_spec(name)
    with torch.device("meta"):
        model = create_model(name)
    assert spec.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_description_is_complete_and_its_builder_exists(name):
    spec = get_spec(name)
    module, _, function = spec.builder.partition(":")
    assert isinstance(spec, ModelSpec)
    assert callable(getattr(import_module(module), function))
    assert spec.summary
    assert spec.family == module.split(".")[1]
    assert spec.input.size == (32 if "cifar10" in name else 224)
    assert spec.input.encoding == ("standardize" if name.startswith("standard_") else "add_inverse")


@pytest.mark.parametrize("name", ALL)
def test_contributions_and_bias_sum_to_the_logit(name, calibrated, encoded):
    k, n = get_spec(name).num_classes, 1 if get_spec(name).params > LARGE else 2
    model, x = calibrated(name), encoded(name, n)
    targets = [[0, k - 1], [1, k // 2]] if n == 2 else [[k - 1]]
    e = explain(model, x, targets)
    assert e.logits.shape == (n, k)
    scale = e.contributions.abs().flatten(2).sum(-1) + e.bias.abs() + e.score.abs()
    assert ((e.map.sum((-1, -2)) + e.bias - e.score).abs() <= 1e-9 * scale).all()
    assert (e.contributions.abs().flatten(2).sum(-1) > 1e-9).all()
    if name.startswith(POSITIONS):
        assert set(e.bias_terms) == {"positions", "logit bias"}
        assert (e.bias_terms["positions"].abs() > 1e-6).all()
    if not name.startswith("standard_"):  # all else that B-cos networks add is the logit bias
        assert e.bias_terms["logit bias"].flatten().tolist() == pytest.approx(
            [-math.log(k - 1)] * n * len(targets[0]), rel=1e-9
        )


@pytest.mark.parametrize("name", ["standard_cifar10_resnet20"])
def test_explanation_of_a_relu_network_is_its_gradient(name, calibrated, encoded):
    model, x = calibrated(name), encoded(name).requires_grad_()
    e = explain(model, x, 3)
    gradient = torch.autograd.grad(model(x)[:, 3].sum(), x)[0]
    torch.testing.assert_close(e.weight, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in ALL if n.values[0] in LIGHT])
def test_every_parameter_gets_a_gradient_and_one_step_changes_it(name, encoded):
    model, x = create_model(name).double().train(), encoded(name)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    BinaryCrossEntropyLoss()(model(x), torch.tensor([1, 2])).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.abs().max() > 0, key
    optimizer.step()
    assert not any(torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))
