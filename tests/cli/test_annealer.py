"""Fine-tuning a converted network: B grows, biases shrink, and what is saved is a B-cos network."""

import copy

import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState

from bcos_cli.train import trainer
from bcos_cli.train.annealer import Annealer
from bcos_cli.train.model import build
from bcos_cli.train.trainer import train
from bcos_core import AddInverse, BcosError, explain
from bcos_models import load_trained

MODEL = {"name": "bcosified/standard_cifar10_resnet20", "options": {"network": {"depths": [1], "width": 8}}}
ANNEALING = {"exponent_from": 1.0, "exponent_epochs": 1.0, "bias_epochs": 2.0}


@pytest.fixture
def wanted(recipe):
    def make(**sections):
        sections = {"model": MODEL, "annealing": ANNEALING, "train": {"epochs": 3}} | sections
        return recipe(**sections)

    return make


@pytest.fixture
def run(tmp_path):
    def start(recipe, name="run", **options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return train(recipe, tmp_path / name, **options)

    return start


def annealer_of(recipe, steps_per_epoch):
    return Annealer(recipe.annealing, recipe.model.options, steps_per_epoch)


def exponents(model):
    return {layer.b for layer in model.modules() if hasattr(layer, "max_out")}


def test_exponent_grows_linearly_and_stays(wanted):
    annealer = annealer_of(wanted(), 4)
    assert [annealer.exponent(step) for step in range(6)] == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]


def test_biases_shrink_linearly_to_nothing(wanted):
    trained = build(wanted(), ["a", "b", "c"])
    biases = {n: p for n, p in trained.model.named_parameters() if n.endswith("bias")}
    for bias in biases.values():
        torch.nn.init.uniform_(bias, 1, 2)
    before = copy.deepcopy({n: p.detach() for n, p in biases.items()})
    annealer = annealer_of(wanted(), 2)
    shares = []
    for step in range(1, 6):
        annealer.after_step(trained.model, step)
        name = max(before, key=lambda n: before[n].abs().max())
        shares.append(float((biases[name].detach() / before[name]).flatten()[before[name].abs().argmax()]))
    assert shares == pytest.approx([0.75, 0.5, 0.25, 0, 0])
    assert exponents(trained.model) == {2.0}
    annealer.finish(trained.model)
    assert not [n for n, _ in trained.model.named_parameters() if n.endswith("bias")]


def test_network_starts_as_the_original_and_with_its_prior(wanted):
    trained = build(wanted(), ["a", "b", "c"])
    annealer_of(wanted(), 2).set(trained.model, 0)
    assert exponents(trained.model) == {1.0}
    assert trained.model.logit_layer.logit_bias == pytest.approx(-0.6931, abs=1e-4)


def test_saved_network_is_a_bcos_network_with_the_scores_of_the_last_epoch(run, wanted, tmp_path):
    result = run(wanted())
    state = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert not [key for key in state if key.endswith("bias")]
    trained = load_trained(str(tmp_path / "run"))
    assert exponents(trained.model) == {2.0}
    assert trained.options == {"network": {"in_chans": 1, "depths": [1], "width": 8}, "images": {"size": 8}}
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(trained.model(AddInverse()(x)), result.trained.model.eval()(AddInverse()(x)))
    e = explain(trained.model, AddInverse()(x))
    assert (e.residual.abs() < 1e-5 * (1 + e.score.abs())).all()


def test_best_checkpoint_is_one_of_a_bcos_network(run, wanted, tmp_path):
    run(wanted(train={"epochs": 3}, data={"val_share": 0.25}))
    state = safetensors.torch.load_file(tmp_path / "run" / "checkpoints" / "best" / "model.safetensors")
    assert not any(value.any() for key, value in state.items() if key.endswith("bias"))


def test_resumed_annealing_gives_the_same_weights(run, wanted, tmp_path, monkeypatch):
    run(wanted(), "whole")
    original = trainer.Trainer.after_step

    class Killed(BaseException):
        pass

    def killed(self):
        original(self)
        if self.progress.step == 5:  # in the second epoch
            raise Killed

    monkeypatch.setattr(trainer.Trainer, "after_step", killed)
    with pytest.raises(Killed):
        run(wanted(train={"epochs": 3, "checkpoint_steps": 1}), "killed")
    monkeypatch.setattr(trainer.Trainer, "after_step", original)
    run(wanted(), "killed", resume=True)
    a, b = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"annealing": {"exponent_epochs": 4.0}},
            "annealing takes 4 epochs, more than train.epochs=3; make it shorter, such as -o annealing.",
        ),
        (
            {"model": {"name": "cifar10_resnet20", "options": {}}},
            "annealing is for converted networks .*, not cifar10_resnet20",
        ),
        (
            {"model": {**MODEL, "options": {**MODEL["options"], "keep_bias": True}}},
            "annealing.bias_epochs removes the biases that model.options.keep_bias=true keeps; choose one",
        ),
        ({"annealing": {"exponent_from": 0.5}}, "annealing.exponent_from"),
        (
            {"model": {**MODEL, "pretrained": True, "weights": "x"}},
            "model.pretrained and model.weights=x are both given",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(wanted, sections, message):
    with pytest.raises(BcosError, match=message):
        wanted(**sections)
