"""The network of a recipe."""

import pytest
import torch

from bcos_cli.train.model import build
from bcos_core import BcosError


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


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"image_size": None}, (224, 256)),
        ({"image_size": 112}, (112, 128)),  # in proportion
        ({"image_size": 112, "resize": 120}, (112, 120)),
        ({"image_size": 112, "resize": "squash"}, (112, None)),
    ],
)
def test_photographs_are_cropped_as_the_model_does_unless_told_otherwise(data, expected, recipe):
    made = recipe(model={"name": "resnet18", "options": {}}, data={"image_channels": None, **data})
    spec = build(made, ["a", "b"]).input
    assert (spec.size, spec.resize) == expected


def test_statistics_of_a_recipe_are_those_of_a_plain_network_alone(recipe):
    data = {"image_channels": None, "mean": [0.1], "std": [0.2, 0.3, 0.4]}
    plain = recipe(model={"name": "standard_cifar10_resnet20", "options": {}}, data=data)
    assert build(plain, ["a", "b"]).input.mean == (0.1, 0.1, 0.1)
    assert build(plain, ["a", "b"]).input.std == (0.2, 0.3, 0.4)
    with pytest.raises(BcosError, match=r"data.mean=0.1 is of standardised images"):
        build(recipe(data=data), ["a", "b"])


def test_crop_larger_than_the_image_is_refused(recipe):
    made = recipe(data={"image_size": 64, "resize": 32})
    with pytest.raises(BcosError, match=r"data.resize=32 is smaller than the 64 pixels .*; give at least 64"):
        build(made, ["a", "b"])


def test_vit_is_built_for_the_images_of_the_recipe(recipe):
    options = {"as_is": True}
    made = recipe(model={"name": "timm/test_vit", "options": options}, data={"image_channels": None, "image_size": 96})
    trained = build(made, ["a", "b"])
    assert (trained.input.size, trained.options) == (96, {"as_is": True, "images": {"size": 96}})
    assert trained.model(torch.rand(1, 3, 96, 96)).shape == (1, 2)
