"""A network with its description: what it says of inputs and outputs, and how it is saved and loaded."""

import json
import re
from dataclasses import replace

import pytest
import timm
import torch

from bcos_core import BcosError
from bcos_models import (
    InputSpec,
    ModelConfig,
    TrainedModel,
    create_model,
    imagenet,
    load_trained,
    save_pretrained,
    save_weights,
)
from bcos_models.registry import describe

OPTIONS = {"depths": [1], "width": 8, "in_chans": 2}
CONFIG = ModelConfig("cifar10_resnet20", 3, OPTIONS, InputSpec(8, 1, resize=None), ["rows", "columns", "corner"])


@pytest.fixture
def trained():
    model = create_model("cifar10_resnet20", num_classes=3, **OPTIONS).eval()
    describe(model, CONFIG)
    return TrainedModel(model, CONFIG)


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "run" / "model.safetensors")
    return trained


def test_bytes_and_floats_are_encoded_alike(trained):
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    encoded = trained.encode(images)
    torch.testing.assert_close(encoded, trained.encode(images / 255))
    torch.testing.assert_close(encoded[:, 1], 1 - images[:, 0] / 255)


def test_a_file_takes_no_memory_for_the_size_of_images_that_it_names(trained, tmp_path):
    config = replace(CONFIG, input=InputSpec(4096, 1, resize=None))
    TrainedModel(trained.model, config).save(tmp_path / "model.safetensors")
    seen = set()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: seen.update(x.device.type for x in given if isinstance(x, torch.Tensor))
    )
    load_trained(str(tmp_path / "model.safetensors"))
    handle.remove()
    assert seen == {"meta"}


@pytest.mark.parametrize("what", ["run", "run/model.safetensors"])
def test_network_and_description_come_back(what, saved, tmp_path):
    again = load_trained(str(tmp_path / what))
    assert (again.name, again.options, again.input) == (saved.name, saved.options, saved.input)
    assert (again.classes, again.probabilities) == (saved.classes, saved.probabilities)
    assert not again.model.training
    x = torch.rand(2, 2, 8, 8)
    assert torch.equal(again.model(x), saved.model(x))


def test_model_by_name_needs_weights_and_takes_them(tmp_path):
    save_weights(create_model("cifar10_resnet32"), tmp_path / "w.safetensors")
    trained = load_trained("cifar10_resnet32", str(tmp_path / "w.safetensors"))
    assert trained.classes == [str(i) for i in range(10)]
    with pytest.raises(BcosError, match="the model 'cifar10_resnet32' has no published weights; name a file with"):
        load_trained("cifar10_resnet32")


def test_saved_model_with_its_class_names_is_loaded_from_its_folder(tmp_path):
    model = create_model("cifar10_resnet20", num_classes=2, depths=[1], width=4)
    save_pretrained(model, tmp_path / "net", class_names=["cat", "dog"])
    trained = load_trained(str(tmp_path / "net"))
    assert (trained.name, trained.classes, trained.probabilities) == ("cifar10_resnet20", ["cat", "dog"], "sigmoid")
    assert trained.options == {"depths": [1], "width": 4}
    x = torch.rand(2, 6, 8, 8)
    assert torch.equal(trained.model(x), model.eval()(x))


def test_published_weights_know_the_classes_of_imagenet(monkeypatch, tmp_path):
    from bcos_models import weights

    path = save_weights(create_model("resnet18"), tmp_path / "w.safetensors")
    monkeypatch.setattr(weights, "find_weights", lambda _: path)
    trained = load_trained("resnet18")
    assert trained.classes[:2] == ["tench", "goldfish"]
    assert len(set(trained.classes)) == 1000
    assert load_trained("resnet18", str(path)).classes[:2] == ["0", "1"]


def test_network_of_a_run_knows_its_own_input(saved, tmp_path):
    again = load_trained(str(tmp_path / "run")).model
    for model in (saved.model, again):
        assert model.transform.input == saved.input
        assert model.bcos_config.num_classes == 3


def test_weights_go_with_a_models_name(tmp_path, saved):
    with pytest.raises(BcosError, match="--weights goes with the name of a model, got"):
        load_trained(str(tmp_path / "run"), "other.safetensors")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "empty",
            "'empty' holds no model.safetensors: .*bcos train empty/config.yaml --resume --out empty",
        ),
        (
            "nothing",
            "'nothing' is neither a run's folder, nor a .safetensors file, nor a model; bcos models lists",
        ),
        ("no.safetensors", "cannot read the weights file 'no.safetensors'"),
        ("junk.safetensors", "cannot read the weights file 'junk.safetensors'"),
        (
            "bare.safetensors",
            "'bare.safetensors' does not say which model it belongs to; name it: MODEL --weights",
        ),
    ],
)
def test_what_cannot_be_loaded_is_named(what, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    save_weights(torch.nn.Linear(1, 1), tmp_path / "bare.safetensors")
    with pytest.raises(BcosError, match=message):
        load_trained(what)


def test_networks_of_other_libraries_are_taken_as_they_are(tmp_path):
    import timm

    original = timm.create_model("mobilenetv3_small_050").eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    trained = load_trained("timm/mobilenetv3_small_050", str(tmp_path / "w.pth"))
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor(trained.input.mean), torch.tensor(trained.input.std)
    expected = original((images - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(trained.model(trained.encode(images)), expected)
    assert trained.probabilities == "softmax"
    assert (len(trained.classes), trained.classes[207]) == (1000, "golden retriever")


@pytest.mark.parametrize("probabilities", ["sigmoid", "softmax"])
def test_what_the_logits_mean_travels_with_weights_and_folders(probabilities, trained, tmp_path):
    config = replace(CONFIG, probabilities=probabilities)
    TrainedModel(trained.model, config).save(tmp_path / "run" / "model.safetensors")
    describe(trained.model, config)
    save_pretrained(trained.model, tmp_path / "net")
    for folder in ("run", "net"):
        again = load_trained(str(tmp_path / folder))
        assert (again.probabilities, again.classes, again.input) == (probabilities, CONFIG.classes, CONFIG.input)


def test_folder_of_before_that_does_not_say_what_logits_mean_is_loaded(trained, tmp_path):
    save_pretrained(trained.model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["bcos_models"]["probabilities"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert load_trained(str(tmp_path)).probabilities == "sigmoid"


def test_description_that_could_not_be_read_again_is_refused(trained):
    with pytest.raises(BcosError, match="the class 'a' is named twice"):
        TrainedModel(trained.model, replace(CONFIG, classes=["a", "a", "b"]))
    with pytest.raises(BcosError, match="2 names of classes for 3 outputs"):
        TrainedModel(trained.model, replace(CONFIG, classes=["a", "b"]))
    with pytest.raises(BcosError, match="probabilities must be 'sigmoid' or 'softmax', got 'x'"):
        TrainedModel(trained.model, replace(CONFIG, probabilities="x"))


def test_classes_of_imagenet_are_known_by_their_wordnet_numbers():
    config = ModelConfig("resnet18", 1000, {}, InputSpec(), imagenet.class_names())
    network = TrainedModel(torch.nn.Identity(), config)
    assert network.align_classes(["n01484850", "n01440764"], "s") == (2, 0)
    assert network.align_classes([str(k) for k in range(1000)], "s") == tuple(range(1000))
    with pytest.raises(BcosError, match=r"does not know 'n99999999'; it knows 'tench', .* and 995 more"):
        network.align_classes(["n01484850", "n99999999"], "s")


@pytest.mark.parametrize("name", ["timm/test_resnet", "cifar10_resnet20"])
def test_weights_of_other_classes_are_loaded_by_the_name_of_their_architecture(name, tmp_path):
    plain = timm.create_model("test_resnet", num_classes=5) if "/" in name else create_model(name, num_classes=5)
    torch.save({"model": plain.state_dict()}, tmp_path / "five.pth")
    loaded = load_trained(name, str(tmp_path / "five.pth"), classes=["a", "b", "c", "d", "e"])
    assert loaded.classes == ["a", "b", "c", "d", "e"]
    assert all(torch.equal(loaded.model.state_dict()[key], value) for key, value in plain.state_dict().items())
    assert load_trained(name, str(tmp_path / "five.pth")).classes == ["0", "1", "2", "3", "4"]
    with pytest.raises(BcosError, match="there are 2 names of classes for 5 outputs"):
        load_trained(name, str(tmp_path / "five.pth"), classes=["a", "b"])


def test_weights_without_a_classifier_are_refused(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "body.pth")
    with pytest.raises(BcosError, match=r"fc\.bias is missing"):
        load_trained("timm/test_resnet", str(tmp_path / "body.pth"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"mean": "abc"}, "mean='abc' must be a list of numbers"),
        ({"std": [0.1, "x"]}, "must be a list of numbers"),
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"resize": "crop"}, "resize='crop' must be a whole number"),
        ({"side": 3}, "images must be a mapping with any of size, resize, mean, std"),
        ([3], "images must be a mapping"),
    ],
)
def test_images_of_a_converted_network_are_checked(images, message):
    with pytest.raises(BcosError, match=re.escape(message)):
        create_model("timm/test_resnet", images=images)
