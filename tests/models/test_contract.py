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
DEEP = ("cifar10_resnet110", "resnet50", "resnext50_32x4d")
RUN = [
    pytest.param(name, marks=pytest.mark.slow if name.endswith(DEEP) else ())
    for name in NAMES
    if "cifar10" in name or name in ("resnet18", "resnet50", "resnext50_32x4d")
]


def test_the_resnet_family_is_there():
    imagenet = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}
    cifar = {f"{p}cifar10_resnet{d}" for p in ("", "standard_") for d in (20, 32, 44, 56, 110)}
    assert imagenet | cifar <= set(NAMES)


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
    assert spec.family == "resnet"
    assert spec.input.size == (32 if "cifar10" in name else 224)
    assert spec.input.encoding == ("standardize" if name.startswith("standard_") else "add_inverse")


@pytest.mark.parametrize("name", RUN)
def test_contributions_and_bias_sum_to_the_logit(name, calibrated, encoded):
    model, x, k = calibrated(name), encoded(name), get_spec(name).num_classes
    e = explain(model, x, [[0, k - 1], [1, k // 2]])
    assert e.logits.shape == (2, k)
    scale = e.contributions.abs().flatten(2).sum(-1) + e.score.abs()
    assert ((e.map.sum((-1, -2)) + e.bias - e.score).abs() <= 1e-9 * scale).all()
    assert (e.contributions.abs().flatten(2).sum(-1) > 1e-3).all()
    if not name.startswith("standard_"):  # all that B-cos networks add is the logit bias
        assert e.bias.flatten().tolist() == pytest.approx([-math.log(k - 1)] * 4, rel=1e-9)


@pytest.mark.parametrize("name", ["standard_cifar10_resnet20"])
def test_explanation_of_a_relu_network_is_its_gradient(name, calibrated, encoded):
    model, x = calibrated(name), encoded(name).requires_grad_()
    e = explain(model, x, 3)
    gradient = torch.autograd.grad(model(x)[:, 3].sum(), x)[0]
    torch.testing.assert_close(e.weight, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RUN)
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
