"""Descriptions of networks, as files of others have them."""

import pytest
import torch

from bcos_core import BcosError
from bcos_models import InputSpec, ModelConfig, create_model
from bcos_models.model_config import check_opens_nothing, check_options
from bcos_models.reconstruction import rebuild

SPEC = InputSpec(size=8, resize=None)
SMALL = {"depths": [1], "width": 4}


def test_description_comes_back_from_json():
    made = ModelConfig("resnet18", 2, {"b": 1.5, "depths": [1]}, SPEC, ["cat", "dög"], "softmax")
    assert ModelConfig.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": 2**40}, "options.a must be finite, and at most 100,000 where it is whole"),
        ({"a": -(2**40)}, "options.a must be"),
        ({"a": {"b": [float("inf")]}}, r"options.a.b must be finite"),
        ({"a": b"x"}, "options.a must be a number, a word, a list or a mapping"),
        ({"a": "x" * 1001}, "options.a must be"),
        ({1: 2}, "a key in options must be a name, got 1"),
        ({"origin": "timm/x"}, "origin cannot stand among the options"),
        ({"a": [0] * 10_000}, "more than 10,000 values"),
        ([], "options must be a mapping"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_are_not_plain_and_small_are_refused(options, message):
    with pytest.raises(BcosError, match=message):
        check_options(options)


def test_circle_of_options_is_refused():
    options = {}
    options["a"] = options
    with pytest.raises(BcosError, match="10 levels"):
        check_options(options)


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained_cfg": {}},
        {"network": {"weights": "x"}},
        {"network": {"checkpoint_path": ""}},
        {"a": ["b", "http://host/x"]},
        {"a": "../x"},
        {"a": "x\\y"},
        {"a": "pipe:x"},
        {"a": "x\n"},
    ],
    ids=str,
)
def test_options_that_may_name_files_are_refused(options):
    with pytest.raises(BcosError, match=r"would open a file or an address|is not a word"):
        check_opens_nothing(options)


def test_options_of_networks_are_taken():
    check_opens_nothing({"norm": "batch_uncentered", "skip": ["layer4.*", "head"], "logit_bias": None, "b": 1.5})


def test_network_is_rebuilt_as_it_was():
    network = create_model("cifar10_resnet20", num_classes=3, **SMALL).eval()
    again = rebuild(ModelConfig("cifar10_resnet20", 3, SMALL, SPEC), network.state_dict(), source="s", classifies=True)
    x = torch.rand(2, 6, 8, 8)
    assert torch.equal(again(x), network(x))
    assert again.bcos_config.input == SPEC


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar10_resnet20", {"depths": [10**5], "width": 4}, "its weights only"),
        ("simple_vit_ti_patch16_224", {"depth": 10**5}, "at least .* its weights only"),
        ("simple_vit_ti_patch16_224", {"heads": 0}, "cannot build the network that 's' describes"),
        ("timm/vit_tiny_patch16_224", {"network": {"depth": 10**5}}, "at least .* its weights only"),
        ("timm/vit_tiny_patch16_224", {"network": {"embed_dim": 30_000}}, "at least .* numbers, its weights only"),
        ("timm/resnet18", {"network": {"img_size": "x"}}, "img_size"),
        ("timm/resnet18", {"network": 5}, "describes"),
        ("torchvision/resnet50", {"network": {"width_per_group": 20_000}}, "at least .* numbers, its weights only"),
    ],
    ids=str,
)
def test_network_that_is_larger_than_its_weights_is_given_up(name, options, message):
    state = create_model("cifar10_resnet20", num_classes=3, **SMALL).state_dict()
    with pytest.raises(BcosError, match=message):
        rebuild(ModelConfig(name, 3, options, SPEC), state, source="s")


def test_converted_network_is_rebuilt():
    options = {"network": {"layers": [1, 1, 1, 1]}}
    network = create_model("timm/resnet18", num_classes=3, **options)
    made = ModelConfig("timm/resnet18", 3, options, InputSpec(size=32, resize=None))
    again = rebuild(made, network.state_dict(), source="s", classifies=True)
    assert again(torch.rand(1, 6, 32, 32)).shape == (1, 3)
