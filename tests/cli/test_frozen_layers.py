"""What is frozen stays as it is, statistics included."""

import pytest
import torch
from torch import nn

from bcos_cli.config import Model
from bcos_cli.train.model import classifier_of, freeze, train_mode
from bcos_cli.train.trainer import train
from bcos_core import BcosError
from bcos_core.norms.batch import RunningNorm
from bcos_models import create_model


@pytest.fixture
def model():
    return create_model("cifar10_resnet20", depths=[1, 1], width=8)


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def training(model):
    return {name for name, module in model.named_modules() if module.training and not list(module.children())}


def options(**values):
    return Model(name="cifar10_resnet20", **values)


def test_patterns_freeze_parameters_and_the_modules_that_have_no_others(model):
    freeze(model, options(freeze=["conv1.*", "bn1.*", "layer1.0.conv1.weight"]))
    train_mode(model, options(freeze=["conv1.*", "bn1.*", "layer1.0.conv1.weight"]))
    everything = {name for name, _ in model.named_parameters()}
    assert everything - trained(model) == {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"}
    assert not model.bn1.training
    assert model.layer1[0].bn1.training
    assert model.layer1[0].training


def test_head_alone(model):
    freeze(model, options(train="head"))
    train_mode(model, options(train="head"))
    assert trained(model) == {"fc.weight"}
    assert {name for name in training(model) if not name.startswith("fc")} == set()
    assert classifier_of(model, "this test")[1].training


def test_all_are_trained_by_default(model):
    freeze(model, options())
    train_mode(model.eval(), options())
    assert trained(model) == {name for name, _ in model.named_parameters()}
    assert all(module.training for module in model.modules())


def test_pattern_that_fits_nothing_is_refused(model):
    with pytest.raises(
        BcosError, match=r"model.freeze='layer1.0.conv3.weight' fits no parameter; did you mean 'layer1.0"
    ):
        freeze(model, options(freeze=["layer1.0.conv3.weight"]))


def test_head_of_a_network_that_does_not_tell_it():
    with pytest.raises(BcosError, match=r"model.train=head needs a network with get_classifier\(\)"):
        freeze(nn.Linear(2, 2), options(train="head"))


def test_norms_keep_their_statistics_while_all_is_trained(model):
    train_mode(model, options(), "keep")
    norms = {name for name, module in model.named_modules() if isinstance(module, RunningNorm)}
    assert norms
    assert not norms & training(model)
    assert model.layer1[0].training
    before = model.bn1.running_var.clone()
    model(torch.rand(4, 6, 32, 32)).sum().backward()
    assert torch.equal(model.bn1.running_var, before)
    assert model.bn1.weight.grad is not None


def test_recipe_asks_for_norms_that_keep_their_statistics(recipe, tmp_path):
    result = train(recipe(train={"norm_statistics": "keep", "epochs": 1}), tmp_path / "run").trained
    norms = [module for module in result.model.modules() if isinstance(module, RunningNorm)]
    assert all(torch.equal(norm.running_var, torch.ones_like(norm.running_var)) for norm in norms)
