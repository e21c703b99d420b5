import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from bcos_core import AddInverse, BcosError, explain
from bcos_models import create_model, from_pretrained, get_spec, is_model, list_models, save_pretrained, save_weights

KEPT = {"b": 1.0, "keep_bias": True, "keep_norms": True, "keep_pooling": True}
NAME = "test_resnet"


def logits_of(original, images, spec):
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.input.mean, spec.input.std))
    with torch.no_grad():
        return original.eval()((images - mean) / std)


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64)


@pytest.fixture
def original():
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=7).eval()


def test_spec_tells_the_input_of_the_library():
    spec = get_spec(f"timm/{NAME}")
    assert (spec.family, spec.num_classes) == ("timm", 1000)
    assert (spec.input.size, spec.input.encoding, spec.input.mean) == (160, "add_inverse", (0.5, 0.5, 0.5))
    assert get_spec("torchvision/resnet18").input.resize == 256
    assert get_spec("timm/resnet50").input.interpolation == "bicubic"
    assert get_spec("bcosified/standard_cifar10_resnet20").input.size == 32


def test_names_are_built_not_listed():
    assert not list_models("timm/*")
    assert is_model("timm/resnet18")
    assert is_model("resnet18")
    assert not is_model("timm/resnet1888")
    assert not is_model("elsewhere/resnet18")


def test_weights_of_the_original_are_converted(original, images, tmp_path):
    save_weights(original, tmp_path / "plain.safetensors")
    network = create_model(f"timm/{NAME}", weights=tmp_path / "plain.safetensors", num_classes=7, **KEPT).eval()
    expected = logits_of(original, images, get_spec(f"timm/{NAME}"))
    torch.testing.assert_close(network(AddInverse()(images)), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_other_classes_bring_all_but_the_classifier(original, tmp_path):
    save_weights(original, tmp_path / "plain.safetensors")
    with pytest.warns(UserWarning, match=r"'timm/test_resnet' has a new, untrained classifier of 4 classes"):
        network = create_model(f"timm/{NAME}", weights=tmp_path / "plain.safetensors", num_classes=4)
    assert torch.equal(network.network.layer1[0].conv1.weight, original.layer1[0].conv1.weight)
    assert network.num_classes == 4


def test_weights_of_the_converted_network_are_loaded_as_they_are(original, images, tmp_path):
    save_weights(original, tmp_path / "plain.safetensors")
    network = create_model(f"timm/{NAME}", weights=tmp_path / "plain.safetensors", num_classes=7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    save_weights(network, tmp_path / "converted.safetensors")
    again = create_model(f"timm/{NAME}", weights=tmp_path / "converted.safetensors", num_classes=7)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in network.state_dict().items())


def test_weights_that_lack_a_tensor_are_refused(original, tmp_path):
    state = original.state_dict()
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(BcosError, match=r"layer1\.0\.conv1\.weight is missing"):
        create_model(f"timm/{NAME}", weights=tmp_path / "part.safetensors", num_classes=7)


def test_folder_holds_the_whole_converted_network(images, tmp_path):
    network = create_model(f"timm/{NAME}", num_classes=7, b=1.5, skip=["layer4.*"]).eval()
    save_pretrained(network, tmp_path / "net")
    again = from_pretrained(tmp_path / "net")
    assert torch.equal(again(AddInverse()(images)), network(AddInverse()(images)))
    assert again.bcos_config.options == {"b": 1.5, "skip": ["layer4.*"]}
    assert (explain(again, AddInverse()(images)).residual.abs() < 1e-4).all()


def test_three_channel_networks_carry_the_standardising_transform():
    network = create_model(f"timm/{NAME}", input="3ch")
    assert network.bcos_config.input.encoding == "standardize"
    assert create_model(f"timm/{NAME}").bcos_config.input.encoding == "add_inverse"


def test_options_of_the_original_network_are_passed_on():
    network = create_model(f"timm/{NAME}", network={"drop_rate": 0.3})
    assert network.network.drop_rate == 0.3


def test_network_built_for_other_images_says_so():
    network = create_model("timm/test_vit", num_classes=5, network={"img_size": 64})
    assert (network.bcos_config.input.size, network.bcos_config.input.resize) == (64, None)
    assert network(torch.rand(1, 6, 64, 64)).shape == (1, 5)
    gray = create_model("timm/test_resnet", num_classes=5, network={"in_chans": 1})
    assert gray.bcos_config.input.encoded_channels == 2
    assert gray(torch.rand(1, 2, 64, 64)).shape == (1, 5)


def test_plain_baselines_of_ours_are_converted_too():
    network = create_model("bcosified/standard_cifar10_resnet20")
    assert type(network.network.conv1).__name__ == "BcosConv2d"


def test_weights_saved_in_data_parallel_are_those_of_the_network(original, tmp_path):
    network = create_model(f"timm/{NAME}", num_classes=7)
    for state in (original.state_dict(), network.state_dict()):
        save_file({f"module.{key}": value.clone() for key, value in state.items()}, tmp_path / "parallel.safetensors")
        again = create_model(f"timm/{NAME}", weights=tmp_path / "parallel.safetensors", num_classes=7)
        name = "layer1.0.conv1.weight"
        assert torch.equal(again.network.get_parameter(name), state.get(name, state.get(f"network.{name}")))


def test_classes_are_those_of_the_librarys_weights():
    assert get_spec("timm/vit_base_patch16_224.augreg_in21k").num_classes == 21843
    with pytest.raises(BcosError, match="have no classifier; give num_classes for a new one"):
        create_model("timm/vit_small_patch16_224.dino", pretrained=True)


def test_transformer_of_torchvision_is_built_for_the_images_of_its_weights():
    assert get_spec("torchvision/vit_h_14").input.size == 518
    with torch.device("meta"):
        from bcos_models.convert.origins import _ORIGINS

        network = _ORIGINS["torchvision"]("vit_h_14").build(10, False)
    assert network.image_size == 518


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm/resnet1888", {}, "timm has no model 'resnet1888'; did you mean 'resnet18'?"),
        ("torchvision/resnet188", {}, "torchvision has no classifier 'resnet188'; did you mean 'resnet18'?"),
        ("bcosified/resnet18", {}, "'resnet18' is a B-cos network already; bcosified/ takes the plain ones"),
        ("bcosified/nothing", {}, "there is no model 'nothing'"),
        ("elsewhere/resnet18", {}, "there is no model 'elsewhere/resnet18'"),
        (f"timm/{NAME}.nowhere", {}, "timm has no weights 'test_resnet.nowhere': Invalid pretrained tag"),
        (f"timm/{NAME}", {"network": {"num_classes": 3}}, "sets num_classes; give that to create_model itself"),
        (
            f"timm/{NAME}",
            {"skip": ["layr4"]},
            "skip names 'layr4', and the network has no such module; did you mean 'layer4'?",
        ),
        (f"timm/{NAME}", {"bb": 1}, "has no option 'bb'; did you mean 'b'?"),
        (f"timm/{NAME}", {"b": 0.5}, "b must be at least 1"),
        (f"timm/{NAME}", {"network": {"nothing": 1}}, "timm cannot build 'test_resnet'"),
        (f"timm/{NAME}", {"weights": "nowhere.safetensors"}, "there is no weights file 'nowhere.safetensors'"),
        (f"timm/{NAME}", {"weights": "x", "pretrained": True}, "give pretrained=True or weights='x', not both"),
    ],
)
def test_mistakes_are_answered_in_words(name, options, message):
    with pytest.raises(BcosError, match=message.replace("(", r"\(").replace("?", r"\?")):
        create_model(name, **options)


@pytest.mark.parametrize(
    "name", ["timm/test_resnet", "timm/test_vit", "timm/test_efficientnet", "torchvision/resnet18"]
)
def test_saved_network_is_loaded_without_running_it_again(name, tmp_path, monkeypatch):
    network = create_model(name, num_classes=7).eval()
    spec = network.bcos_config.input
    x = torch.rand(2, spec.encoded_channels, spec.size, spec.size)
    expected = network(x)
    save_pretrained(network, tmp_path / "net")
    monkeypatch.setattr("bcos_models.convert.bcosify.observe", None)
    again = from_pretrained(tmp_path / "net")
    assert torch.equal(again(x), expected)
    assert again.decisions == network.decisions
    assert [s.name for s in again.conversion.steps] == [s.name for s in network.conversion.steps]
    assert again.conversion.notes == network.conversion.notes


def test_network_that_an_older_version_saved_is_loaded(tmp_path, images):
    network = create_model(f"timm/{NAME}", num_classes=7).eval()
    save_pretrained(network, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text(encoding="utf-8"))
    del config["bcos_models"]["decisions"]
    (tmp_path / "net" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    x = AddInverse()(images)
    assert torch.equal(from_pretrained(tmp_path / "net")(x), network(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_layers": ["conv1", "conv1"]}, "decisions of a conversion have image_layers="),
        ({"image_layers": ["no.such.layer"]}, "no.such.layer|has no attribute"),
        ({"pool": 3}, "decisions of a conversion have pool=3"),
        ({"more": 1}, "decisions of a conversion have other keys"),
        ({"moved": False}, "do not fit|is missing|is unknown"),
    ],
    ids=str,
)
def test_decisions_that_do_not_fit_are_refused(change, said, tmp_path):
    network = create_model(f"timm/{NAME}", num_classes=7).eval()
    save_pretrained(network, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text(encoding="utf-8"))
    config["bcos_models"]["decisions"] |= change
    (tmp_path / "net" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(BcosError, match=said):
        from_pretrained(tmp_path / "net")


def test_network_is_left_as_it_is(original, images, tmp_path):
    save_weights(original, tmp_path / "plain.safetensors")
    network = create_model(f"timm/{NAME}", weights=tmp_path / "plain.safetensors", num_classes=7, as_is=True).eval()
    assert type(network) is type(original)
    spec = network.bcos_config.input
    assert spec.encoding == "standardize"
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    torch.testing.assert_close(network((images - mean) / std), logits_of(original, images, get_spec(f"timm/{NAME}")))
    with pytest.raises(BcosError, match=r"as_is=True leaves the network unconverted; leave out b, or as_is"):
        create_model(f"timm/{NAME}", as_is=True, b=1.0)


def test_weights_of_a_converted_network_are_no_plain_ones(tmp_path):
    save_weights(create_model(f"timm/{NAME}"), tmp_path / "converted.safetensors")
    with pytest.raises(BcosError, match=r"are of a converted network; leave out as_is"):
        create_model(f"timm/{NAME}", weights=tmp_path / "converted.safetensors", as_is=True)


def test_network_for_one_size_is_built_for_that_of_its_images(tmp_path):
    images = {"size": 96}
    network = create_model("timm/test_vit", num_classes=5, images=images).eval()
    assert (network.bcos_config.input.size, network.bcos_config.options) == (96, {"images": images})
    assert network(torch.rand(1, 6, 96, 96)).shape == (1, 5)
    plain = create_model("torchvision/vit_b_32", num_classes=5, images=images, as_is=True)
    assert plain.image_size == 96
    convolutional = create_model(f"timm/{NAME}", num_classes=5, images=images, as_is=True)
    assert convolutional(torch.rand(1, 3, 96, 96)).shape == (1, 5)

    save_pretrained(network, tmp_path / "saved")
    again = from_pretrained(tmp_path / "saved")
    x = torch.rand(1, 6, 96, 96)
    torch.testing.assert_close(again.eval()(x), network(x))


def test_weights_for_another_size_are_resampled_with_a_word(tmp_path):
    torch.manual_seed(0)
    trained = create_model("timm/test_vit", num_classes=5, as_is=True)
    save_file(trained.state_dict(), tmp_path / "vit.safetensors")
    with pytest.warns(UserWarning, match=r"for images of another size: pos_embed was resampled from \(1, 101, 64\)"):
        network = create_model(
            "timm/test_vit", num_classes=5, weights=tmp_path / "vit.safetensors", images={"size": 96}, as_is=True
        )
    by_timm = timm.layers.resample_abs_pos_embed(trained.pos_embed, (6, 6))
    torch.testing.assert_close(network.pos_embed, by_timm)
    assert torch.equal(network.patch_embed.proj.weight, trained.patch_embed.proj.weight)
