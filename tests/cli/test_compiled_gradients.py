"""A compiled network learns what it would as it was written, or is refused before its first step."""

import re

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from bcos_cli.train.compiled_gradients import wrong_when_compiled
from bcos_cli.train.train_step import TrainStep
from bcos_cli.train.trainer import train
from bcos_core import BcosError
from bcos_core.norms.batch import BatchNormUncentered2d


class Squared(nn.Module):
    def forward(self, x):
        return x * x.abs()


class WrongCall:
    """Stands for what a compiler made of a layer."""

    def __init__(self, layer, change):
        self.layer, self.change = layer, change

    def __call__(self, x):
        return self.change(self.layer.forward(x))


class Doubled(torch.autograd.Function):
    """The right output, and twice its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Undefined(Doubled):
    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def network(*, dropout=0.0):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), Squared(), BatchNormUncentered2d(8), nn.AvgPool2d(3, 2, 1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 25, 4)).train()


def checked(model, precision="no"):
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    return wrong_when_compiled(
        model, model, torch.rand(6, 3, 11, 11, generator=torch.Generator().manual_seed(0)), accelerator
    )


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_network_that_is_compiled_well_passes_and_stays_as_it_was(precision, dropout):
    model = network(dropout=dropout)
    model.compile(backend="aot_eager")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert checked(model, precision) is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model._compiled_call_impl is not None


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    ("layer", "change", "dropout", "found"),
    [
        (0, Doubled.apply, 0.0, r"0.weight \(differs by \d+%\)"),
        (0, Undefined.apply, 0.0, r"0.weight \(not finite\)"),
        (0, Undefined.apply, 0.5, r"0.weight \(not finite\)"),
        (6, lambda x: x * 1.5, 0.0, r"the logits \(differs by \d+%\)"),
        (6, lambda x: x * torch.inf, 0.5, r"the logits \(not finite\)"),
    ],
)
def test_what_is_compiled_wrongly_is_named(precision, layer, change, dropout, found):
    model = network(dropout=dropout)
    model[layer]._compiled_call_impl = WrongCall(model[layer], change)
    wrong = checked(model, precision)
    assert wrong is not None
    assert re.search(found, wrong), wrong


def test_run_that_would_learn_something_else_is_refused_before_its_first_step(recipe, tmp_path, monkeypatch):
    def compile_wrongly(model, how, backend):
        model.conv1._compiled_call_impl = WrongCall(model.conv1, Undefined.apply)

    monkeypatch.setattr("bcos_cli.train.model.compile_network", compile_wrongly)
    with pytest.raises(BcosError, match=r"compiles the network wrongly: .*conv1.*not finite.*use -o train.compile=no"):
        train(recipe(train={"compile": "whole", "epochs": 1}), tmp_path / "run")
    assert not (tmp_path / "run/model.safetensors").exists()


def test_each_graph_of_a_network_whose_exponent_grows_is_checked(recipe, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr("bcos_cli.train.model.compile_network", lambda *_: None)
    monkeypatch.setattr(TrainStep, "check_compiled", lambda step, _: checked.append(step.model.network.conv1.b))
    made = recipe(
        model={"name": "bcosified/standard_cifar10_resnet20", "options": {"network": {"depths": [1], "width": 8}}},
        annealing={"exponent_from": 1.0, "exponent_epochs": 1},
        train={"compile": "whole", "epochs": 2},
    )
    train(made, tmp_path / "run")
    start, between, end = checked
    assert (start, end) == (1, 2)
    assert 1 < between < 2


def test_compiler_that_fails_is_one_line(recipe, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise OSError("there is no g++")

    monkeypatch.setattr("bcos_cli.train.model.compile_network", lambda model, *_: model.compile(backend=broken))
    with pytest.raises(BcosError, match=r"train.compile=whole: PyTorch cannot compile .*no g\+\+.*-o train.compile=no"):
        train(recipe(train={"compile": "whole", "epochs": 1}), tmp_path / "run")
