"""The network of a recipe."""

import pytest
import torch

from bcos_cli.train.model import build


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
