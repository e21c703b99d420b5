import argparse
import math
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file
from torch import nn

from bcos_core import BcosError
from bcos_models import create_model, load_weights, save_weights
from bcos_models.weights import load_state

SMALL = {"depths": (1,), "width": 4, "num_classes": 3}


@pytest.fixture
def model():
    made = create_model("cifar10_resnet20", **SMALL)
    made(torch.rand(2, 6, 8, 8))  # running statistics that are not the initial ones
    return made


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_weights_come_back_as_they_were_saved(model, tmp_path):
    path = save_weights(model, tmp_path / "new" / "folder" / "m.safetensors", metadata={"who": "me"})
    other = create_model("cifar10_resnet20", **SMALL)
    assert not same(model, other)
    load_weights(other, path)
    assert same(model, other)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "who": "me"}


def test_create_model_takes_weights(model, tmp_path):
    path = save_weights(model, tmp_path / "m.safetensors")
    assert same(create_model("cifar10_resnet20", weights=path, **SMALL), model)
    assert same(create_model("cifar10_resnet20", weights=str(path), **SMALL), model)


def test_saving_leaves_only_the_file(model, tmp_path):
    save_weights(model, tmp_path / "m.safetensors")
    save_weights(model, tmp_path / "m.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_interrupted_saving_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    path = save_weights(model, tmp_path / "m.safetensors")
    before = path.read_bytes()

    def half(file, content):
        with file.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", half)
        with pytest.raises(KeyboardInterrupt):
            save_weights(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert path.read_bytes() == before


def test_tied_parameters_can_be_saved(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    path = save_weights(tied, tmp_path / "m.safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(other, path)
    assert same(other, tied)


def test_saved_model_is_on_the_cpu_and_unchanged(model, tmp_path):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_weights(model, tmp_path / "m.safetensors")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_layer_called_linear_survives_the_round_trip(tmp_path):
    """The reference's keys end in .linear.weight too; a model's own keys must win."""

    def net():
        return nn.Sequential(nn.ModuleDict({"linear": nn.Linear(3, 2)}))

    made = net()
    path = save_weights(made, tmp_path / "m.safetensors")
    other = net()
    load_weights(other, path)
    assert same(other, made)


def test_missing_file_is_named(model, tmp_path):
    with pytest.raises(BcosError, match=r"there is no weights file '.*nope.safetensors'; give the path or URL of a"):
        load_weights(model, tmp_path / "nope.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_truncated_file_is_refused_and_the_model_left_alone(kept, model, tmp_path):
    path = save_weights(model, tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    other = create_model("cifar10_resnet20", **SMALL)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(BcosError, match=r"is not a readable safetensors file .*; give a file written by save_weights"):
        load_weights(other, path)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model_state_dict": s},
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"net": {f"module.{key}": value for key, value in s.items()}},
        lambda s: {"model_ema": {"state_dict": {f"module.{key}": value for key, value in s.items()}}},
        lambda s: {"state_dict": {f"net.{key}": value for key, value in s.items()}},
    ],
)
def test_state_dict_of_torch_save_is_read(wrap, model, tmp_path):
    torch.save(wrap(model.state_dict()), tmp_path / "m.pth")
    assert same(create_model("cifar10_resnet20", weights=tmp_path / "m.pth", **SMALL), model)


def test_checkpoint_with_a_moving_average_says_which_weights_are_read(model, tmp_path):
    average = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "model_ema": average}, tmp_path / "m.pth")
    with pytest.warns(UserWarning, match=r"m.pth' holds model and model_ema; model is what is read"):
        assert same(create_model("cifar10_resnet20", weights=tmp_path / "m.pth", **SMALL), model)


def test_checkpoint_that_holds_itself_is_refused(model, tmp_path):
    endless = {"epoch": 3}
    endless["model"] = endless
    torch.save(endless, tmp_path / "m.pth")
    with pytest.raises(BcosError, match="holds no state dict"):
        load_weights(model, tmp_path / "m.pth")


class Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_is_not_run(model, tmp_path):
    torch.save({"fc.weight": Evil(tmp_path / "ran")}, tmp_path / "m.pth")
    with pytest.raises(BcosError, match=r"m.pth' is not a file of weights alone .*; give a .safetensors file"):
        load_weights(model, tmp_path / "m.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"<html>404</html>"], ids=["empty", "text", "html"])
def test_other_files_are_one_line(content, model, tmp_path):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(BcosError, match=r"m.pth' is not a file of weights alone \(.+\); give a .safetensors file"):
        load_weights(model, tmp_path / "m.pth")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model._orig_mod."])
def test_prefixes_of_wrappers_and_trainers_are_stripped(prefix, model, tmp_path):
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    others = {"ema.module.fc.weight": torch.zeros(1), "criterion.off_label": torch.zeros(1)}
    torch.save({"state_dict": {**state, **others}, "epoch": 3}, tmp_path / "m.pth")
    assert same(create_model("cifar10_resnet20", weights=tmp_path / "m.pth", **SMALL), model)


def test_compiled_model_is_saved_under_its_own_keys(model, tmp_path):
    path = save_weights(torch.compile(model), tmp_path / "m.safetensors")
    assert same(create_model("cifar10_resnet20", weights=path, **SMALL), model)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"a": "b"}}], ids=str)
def test_file_without_state_dict_is_refused(content, model, tmp_path):
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(BcosError, match=r"m.pth' holds no state dict; save model.state_dict\(\)"):
        load_weights(model, tmp_path / "m.pth")


@pytest.mark.parametrize("options", [{}, {"max_out": 2}], ids=str)
def test_classifier_of_other_classes_is_replaced_where_classes_are_asked_for(options, tmp_path):
    options = {"depths": (1,), "width": 4, **options}
    trained = create_model("cifar10_resnet20", num_classes=3, **options)
    path = save_weights(trained, tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"of another number of classes than 5: .* has a new, untrained classifier"):
        model = create_model("cifar10_resnet20", weights=path, num_classes=5, **options).eval()
    assert model(torch.rand(1, 6, 8, 8)).shape == (1, 5)
    assert model.logit_layer.logit_bias == pytest.approx(-math.log(4))
    other, own = trained.state_dict(), model.state_dict()
    assert all(torch.equal(own[key], other[key]) for key in own if key != "fc.weight")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": None}, r"fc.weight has shape \(3, 4, 1, 1\), needs \(10, 4, 1, 1\); build the model"),
        (
            {"width": 6},
            r"bn1.running_var has shape \(4,\), needs \(6,\); bn1.weight .* \(and more, 10 in all\)",
        ),
        (
            {"depths": (1, 1)},
            r"layer2.0.bn1.num_batches_tracked is missing; .*layer2.* is missing; fc.weight has",
        ),
        ({"norm": "batch"}, r"do not fit the model 'cifar10_resnet20': bn1.running_mean is missing"),
        ({"norm": "layer_uncentered"}, "bn1.running_var is unknown"),
    ],
    ids=str,
)
def test_weights_of_another_shape_are_named_with_the_remedy(options, message, model, tmp_path):
    path = save_weights(model, tmp_path / "m.safetensors")
    with pytest.raises(BcosError, match=message):
        create_model("cifar10_resnet20", weights=path, **{**SMALL, **options})


def test_state_that_does_not_fit_names_its_source(model):
    with pytest.raises(BcosError, match=r"the weights in 'the moon' do not fit the model: bn1.num_batches"):
        load_state(model, {}, source="the moon")


def test_weights_without_counters_of_batches_are_taken(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "exported.safetensors")
    other = create_model("cifar10_resnet20", **SMALL)
    load_weights(other, tmp_path / "exported.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items() if key in state)
    del state["bn1.running_var"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(BcosError, match=r"bn1.running_var is missing"):
        load_weights(other, tmp_path / "less.safetensors")
