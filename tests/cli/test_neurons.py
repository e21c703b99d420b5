import json

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import images_at, make_batches
from bcos_cli.explain.neurons import NeuronOptions, neuron_rows
from bcos_cli.train.model import build
from bcos_core import BcosError


@pytest.fixture
def trained(recipe):
    made = build(recipe(), ["rows", "columns", "corner"])
    made.model.eval()
    return made


def whole_split(trained, shards):
    batches = make_batches(shards, load_index(shards), "train", trained.input, batch_size=100)
    return next(iter(batches.epoch(0)))


def test_images_at_positions_are_those_of_the_split(trained, shards):
    images, labels, positions = whole_split(trained, shards)
    found = images_at(shards, load_index(shards), "train", trained.input, [0, 4, 5, 23])
    assert sorted(found) == [0, 4, 5, 23]
    for position, (image, label) in found.items():
        i = positions.tolist().index(position)
        assert torch.equal(image, images[i])
        assert label == [labels[i]]


def test_positions_outside_of_the_split_are_refused(trained, shards):
    with pytest.raises(BcosError, match="the split has positions from 0 to 23, got 24"):
        images_at(shards, load_index(shards), "train", trained.input, [3, 24])


def activations(trained, x, layer):
    seen = []
    handle = trained.model.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2].detach()))
    trained.model(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("layer", ["layer1", "conv1"])
def test_rows_hold_the_most_activating_images_in_order(layer, trained, shards):
    images, labels, _ = whole_split(trained, shards)
    strengths = activations(trained, trained.encode(images), layer).flatten(2).amax(2)  # (24, C)
    options = NeuronOptions(layer=layer, channels=(3, 1), images=4)
    rows = neuron_rows(trained, shards, "train", options, batch_size=5)
    assert [row.channel for row in rows] == [3, 1]
    for row in rows:
        scores, order = strengths[:, row.channel].topk(4)
        assert [item.score for item in row.items] == pytest.approx(scores.tolist(), rel=1e-5)
        classes = ["rows", "columns", "corner"]
        assert [item.label for item in row.items] == [classes[labels[i]] for i in order]
        for item, i in zip(row.items, order, strict=True):
            assert torch.equal(torch.tensor(item.input[..., 0]) * 255, images[i, 0].float())


def test_the_strongest_channels_are_taken_where_none_is_named(trained, shards):
    images, _, _ = whole_split(trained, shards)
    strongest = activations(trained, trained.encode(images), "layer1").flatten(2).amax((0, 2)).topk(3).indices
    rows = neuron_rows(trained, shards, "train", NeuronOptions(layer="layer1", strongest=3, images=2))
    assert [row.channel for row in rows] == strongest.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_only_the_start_of_the_split_is_searched_if_asked(workers, trained, shards):
    options = NeuronOptions(layer="layer1", images=50, scanned=9)
    (first, *_) = neuron_rows(trained, shards, "train", options, batch_size=4, workers=workers)
    images, _, _ = whole_split(trained, shards)
    strengths = activations(trained, trained.encode(images[:9]), "layer1")[:, first.channel].flatten(1).amax(1)
    assert [item.score for item in first.items] == pytest.approx(
        strengths.sort(descending=True).values.tolist(), rel=1e-5
    )


def test_channels_are_explained_in_images_of_ones_own(bcos, trained, tmp_path, line):
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"{i}.png")
    trained.save(tmp_path / "model.safetensors")
    images = [part for i in range(3) for part in ("--image", f"{i}.png")]
    arguments = ("neurons", "model.safetensors", "--out", "n", *images, "--layer", "conv1")
    status, _, err = bcos(*arguments, "--channel", 2)
    assert status == 0, err
    (row,) = json.loads((tmp_path / "n/neurons.json").read_text())["neurons"]
    x = torch.stack([torch.tensor(np.array(Image.open(f"{i}.png")))[None] for i in range(3)])
    strengths = activations(trained, trained.encode(x), "conv1")[:, 2].flatten(1).amax(1)
    order = strengths.argsort(descending=True).tolist()
    assert [image["label"] for image in row["images"]] == [f"{i}.png" for i in order]
    assert [image["activation"] for image in row["images"]] == pytest.approx(strengths[order].tolist(), rel=1e-5)
    assert "which channel? name one with --channel" in line(bcos(*arguments))
    Image.new("L", (16, 8)).save(tmp_path / "1.png")
    assert "1.png: squeezed to a square" in bcos(*arguments, "--channel", 2)[2]
    (tmp_path / "0.png").write_bytes(b"broken")
    assert "0.png" in line(bcos(*arguments, "--channel", 2))


def test_command_writes_a_page_and_numbers(bcos, trained, shards, tmp_path, line):
    trained.save(tmp_path / "model.safetensors")
    arguments = ("neurons", "model.safetensors", "--out", "n", "--images", 2, "--strongest", 3)
    status, _, err = bcos(*arguments, "--data", shards, "--workers", 0)
    assert status == 0, err
    assert "neurons of layer1" in err
    described = json.loads((tmp_path / "n/neurons.json").read_text())
    assert len(described["neurons"]) == 3
    assert all(len(n["images"]) == 2 for n in described["neurons"])
    assert "layer1" in (tmp_path / "n/neurons.html").read_text()
    assert "'model.safetensors' names no data; give a folder of shards" in line(bcos(*arguments))
    unknown = bcos(*arguments, "--data", shards, "--layer", "layer9")
    assert "the model has no layer 'layer9'; did you mean" in line(unknown)
