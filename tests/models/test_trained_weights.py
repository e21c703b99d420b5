"""The weights that come with the package are what their card says, and need no network connection."""

import hashlib
import io
import re
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from bcos_core import explain
from bcos_models import create_model, download, get_spec, list_models, load_trained
from bcos_models.download import PACKAGE, packaged_file

ROOT = Path(__file__).parents[2]
OURS = [n for n in list_models() if (c := get_spec(n).checkpoint) is not None and c.url.startswith(PACKAGE)]
CIFAR10 = ROOT.parent / "shared/data/cifar10-jpeg.zip"
IMAGES = 400


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it asked for an address")

    monkeypatch.setattr(download, "fetch", refuse)
    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)


def card(name):
    return packaged_file(get_spec(name).checkpoint.url).with_suffix(".md").read_text(encoding="utf-8")


def test_there_is_a_network_to_try():
    assert "cifar10_resnet20" in OURS


@pytest.mark.parametrize("name", OURS)
def test_file_is_the_one_that_code_and_card_name(name):
    checkpoint = get_spec(name).checkpoint
    file = packaged_file(checkpoint.url)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == checkpoint.sha256
    assert digest in card(name)
    assert file.stat().st_size < 6e6
    assert f"top-1 {checkpoint.top1:.2f} %" in card(name)
    assert f"{sum(p.numel() for p in create_model(name).parameters()):,} parameters" in card(name)
    assert checkpoint.license in card(name)


def test_a_cat_is_a_cat_and_its_map_is_the_logit():
    model = create_model("cifar10_resnet20", pretrained=True).eval()
    x = model.transform(Image.open(ROOT / "docs/tutorials/cat.png"))[None]
    explanation = explain(model, x)
    assert model.class_names[int(explanation.target)] == "cat"
    torch.testing.assert_close(explanation.map.sum((1, 2)) + explanation.bias, explanation.score)
    assert float(explanation.image_share) == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(not CIFAR10.exists(), reason="CIFAR-10 is not here")
def test_accuracy_is_that_of_the_card():
    trained = load_trained("cifar10_resnet20")
    right = total = 0
    with zipfile.ZipFile(CIFAR10) as archive, torch.inference_mode():
        names = sorted(n for n in archive.namelist() if re.fullmatch(r".*test/\w+/\d+\.jpg", n))
        chosen = names[:: len(names) // IMAGES]
        pixels = torch.stack([trained.model.transform(Image.open(io.BytesIO(archive.read(n)))) for n in chosen])
        found = trained.model(pixels).argmax(1).tolist()
    right = sum(trained.classes[k] == n.split("/")[-2] for k, n in zip(found, chosen, strict=True))
    total = len(chosen)
    expected = get_spec("cifar10_resnet20").checkpoint.top1 / 100
    assert abs(right / total - expected) < 4 * (expected * (1 - expected) / total) ** 0.5
