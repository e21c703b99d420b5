import pytest
import torch

from bcos_cli.train.model import build
from bcos_core import BcosError
from bcos_models import create_model, load_trained, save_pretrained, save_weights


@pytest.fixture
def saved(recipe, tmp_path):
    trained = build(recipe(), ["rows", "columns", "corner"])
    trained.model.eval()
    trained.save(tmp_path / "run" / "model.safetensors")
    return trained


def test_network_is_built_for_the_recipes_images_and_classes(recipe):
    trained = build(recipe(), ["a", "b"])
    assert (trained.input.size, trained.input.channels, trained.input.resize) == (8, 1, None)
    assert trained.options == {"depths": [1], "width": 8, "in_chans": 2}
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert trained.model(trained.encode(images)).shape == (2, 2)


@pytest.mark.parametrize(
    ("loss", "kind"), [("bce", "sigmoid"), ("uniform_off_label_bce", "sigmoid"), ("cross_entropy", "softmax")]
)
def test_logits_mean_what_the_loss_made_them(loss, kind, recipe):
    trained = build(recipe(train={"loss": loss}), ["a", "b"])
    logits = torch.randn(3, 2)
    expected = logits.sigmoid() if kind == "sigmoid" else logits.softmax(1)
    torch.testing.assert_close(trained.confidences(logits), expected)


def test_bytes_and_floats_are_encoded_alike(recipe):
    trained = build(recipe(), ["a", "b"])
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    encoded = trained.encode(images)
    torch.testing.assert_close(encoded, trained.encode(images / 255))
    torch.testing.assert_close(encoded[:, 1], 1 - images[:, 0] / 255)


@pytest.mark.parametrize("what", ["run", "run/model.safetensors"])
def test_network_and_description_come_back(what, saved, tmp_path):
    again = load_trained(str(tmp_path / what))
    assert (again.name, again.options, again.input) == (saved.name, saved.options, saved.input)
    assert (again.classes, again.probabilities) == (saved.classes, saved.probabilities)
    assert not again.model.training
    x = torch.rand(2, 2, 8, 8)
    assert torch.equal(again.model(x), saved.model(x))


def test_model_by_name_needs_weights_and_takes_them(tmp_path):
    save_weights(create_model("cifar10_resnet20"), tmp_path / "w.safetensors")
    trained = load_trained("cifar10_resnet20", str(tmp_path / "w.safetensors"))
    assert trained.classes == [str(i) for i in range(10)]
    with pytest.raises(BcosError, match="the model 'cifar10_resnet20' has no published weights; name a file with"):
        load_trained("cifar10_resnet20")


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


def test_network_of_a_run_knows_its_own_input(saved, recipe, tmp_path):
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
def test_what_cannot_be_loaded_is_named(what, message, tmp_path):
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
