import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch

import bcos_cli.explain.shard_maps
from bcos_cli.data.index import ShardRecord, load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.explain.maps_folder import MapsFolder
from bcos_cli.explain.shard_maps import MapOptions, explain_shards
from bcos_cli.train.model import build
from bcos_core import BcosError, explain
from bcos_explain import get_explainer


@pytest.fixture
def trained(recipe):
    made = build(recipe(), ["rows", "columns", "corner"])
    made.model.eval()
    return made


def members(folder):
    """Arrays and descriptions by key, of all shards."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                data = tar.extractfile(member).read()
                value = json.loads(data) if kind == "json" else np.load(io.BytesIO(data))
                found.setdefault(key, {})[kind] = value
    return found


def every_image(trained, shards, split="train"):
    batches = make_batches(shards, load_index(shards), split, trained.input, batch_size=100)
    images, labels, _ = next(iter(batches.epoch(0)))
    return trained.encode(images), labels


def test_every_image_has_the_map_that_explaining_it_alone_gives(trained, shards, tmp_path):
    options = MapOptions(methods=("bcos", "gradcam"), weights=True)
    written = explain_shards(trained, shards, tmp_path / "maps", options, split="train", batch_size=3, workers=0)
    assert (written.images, written.shards, written.resumed) == (24, 5, 0)
    x, labels = every_image(trained, shards)
    e = explain(trained.model, x)
    cam = get_explainer("gradcam")(trained.model, x)
    found = members(tmp_path / "maps")
    assert len(found) == 24
    for i, sample in enumerate(found.values()):
        described = sample["json"]
        for kind, truth in (("bcos", e.map[i]), ("weight", e.weight[i]), ("gradcam", cam[i])):
            half = sample[f"{kind}.npy"]
            assert half.dtype == np.float16
            ours = half.astype(np.float64) * described["scale"][kind]
            np.testing.assert_allclose(ours, truth.numpy(), atol=6e-4 * float(truth.abs().max()), rtol=0)
        assert described["label"] == int(labels[i])
        assert described["target"] == described["predicted"] == int(e.target[i])
        assert described["logit"] == pytest.approx(float(e.score[i]), rel=1e-5)
        total = described["sum"]["bcos"] + described["bias"]
        assert total == pytest.approx(described["logit"], rel=1e-4)


def test_tiny_maps_survive_half_precision(trained, shards, tmp_path):
    with torch.no_grad():
        trained.model(every_image(trained, shards)[0])
        for p in trained.model.parameters():
            p.mul_(1e-3)
    explain_shards(trained, shards, tmp_path / "maps", MapOptions(), split="test", workers=0)
    for sample in members(tmp_path / "maps").values():
        assert np.abs(sample["bcos.npy"]).max() == 1


def test_call_that_failed_at_once_can_be_corrected(trained, shards, tmp_path):
    with pytest.raises(BcosError, match="attention rollout needs"):
        explain_shards(trained, shards, tmp_path / "maps", MapOptions(methods=("attention_rollout",)), split="test")
    explain_shards(trained, shards, tmp_path / "maps", MapOptions(), split="test", workers=0)
    assert len(members(tmp_path / "maps")) == 7


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (MapOptions(choice="label"), lambda label, predicted: label),
        (MapOptions(targets=(2, 0)), lambda label, predicted: [2, 0]),
    ],
)
def test_targets_are_those_asked_for(options, expected, trained, shards, tmp_path):
    explain_shards(trained, shards, tmp_path / "maps", options, split="test", workers=0)
    for sample in members(tmp_path / "maps").values():
        d = sample["json"]
        assert d["target"] == expected(d["label"], d["predicted"])
        assert sample["bcos.npy"].shape == (*np.shape(d["target"]), 8, 8)
        assert np.shape(d["bias"]) == np.shape(d["target"])


def test_the_result_does_not_depend_on_workers_or_batches_but_for_order(trained, shards, tmp_path):
    explain_shards(trained, shards, tmp_path / "one", MapOptions(), split="train", batch_size=2, workers=2)
    explain_shards(trained, shards, tmp_path / "two", MapOptions(), split="train", batch_size=5, workers=0)
    one, two = members(tmp_path / "one"), members(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, sample in one.items():
        np.testing.assert_allclose(sample["bcos.npy"], two[key]["bcos.npy"], atol=2e-3)


def test_a_killed_call_goes_on_and_leaves_the_same_bytes(trained, shards, tmp_path, monkeypatch, files):
    whole = tmp_path / "whole"
    explain_shards(trained, shards, whole, MapOptions(), split="train", batch_size=2, workers=0)
    original, calls = bcos_cli.explain.shard_maps._write_batch, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 8:  # in the middle of the third shard
            raise KeyboardInterrupt
        original(*arguments)

    out = tmp_path / "out"
    monkeypatch.setattr(bcos_cli.explain.shard_maps, "_write_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain_shards(trained, shards, out, MapOptions(), split="train", batch_size=2, workers=0)
    assert not (out / "maps.json").exists()
    assert len(list(out.glob("*.tar"))) == 2
    assert not list(out.glob(".*.tmp"))
    monkeypatch.setattr(bcos_cli.explain.shard_maps, "_write_batch", original)
    written = explain_shards(trained, shards, out, MapOptions(), split="train", batch_size=2, workers=0)
    assert written.resumed == 2
    assert files(out) == files(whole)
    assert explain_shards(trained, shards, out, MapOptions(), split="train", workers=0).resumed == 5


def test_the_index_describes_what_was_written(trained, shards, tmp_path):
    explain_shards(trained, shards, tmp_path / "maps", MapOptions(), split="test", workers=0, name="runs/x")
    index = json.loads((tmp_path / "maps/maps.json").read_text())
    assert index["model"] == "runs/x"
    assert index["classes"] == ["rows", "columns", "corner"]
    assert index["options"]["methods"] == ["bcos"]
    for shard in index["shards"]:
        assert (tmp_path / "maps" / shard["name"]).stat().st_size == shard["bytes"]
    assert sum(s["samples"] for s in index["shards"]) == 7


def test_a_shard_that_was_lost_or_cut_since_is_made_again(trained, shards, tmp_path, files):
    out = tmp_path / "maps"
    explain_shards(trained, shards, out, MapOptions(), split="train", workers=0)
    before = files(out)
    first, second, *_ = sorted(out.glob("*.tar"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    assert explain_shards(trained, shards, out, MapOptions(), split="train", workers=0).resumed == 3
    assert files(out) == before


def test_other_maps_and_other_things_are_left_alone(trained, shards, tmp_path):
    out = tmp_path / "maps"
    explain_shards(trained, shards, out, MapOptions(), split="test", workers=0)
    with pytest.raises(BcosError, match=r"holds other maps \(options differ\); choose another folder"):
        explain_shards(trained, shards, out, MapOptions(choice="label"), split="test", workers=0)
    with torch.no_grad():
        next(trained.model.parameters()).mul_(2)
    with pytest.raises(BcosError, match=r"holds other maps \(fingerprint differ\)"):
        explain_shards(trained, shards, out, MapOptions(), split="test", workers=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(BcosError, match="is not empty"):
        explain_shards(trained, shards, tmp_path / "mine", MapOptions(), split="test", workers=0)


def test_command_writes_maps_and_goes_on(bcos, trained, shards, tmp_path, line):
    trained.save(tmp_path / "model.safetensors")
    arguments = ("maps", "model.safetensors", "--data", shards, "--workers", 0)
    status, _, err = bcos(*arguments, "--out", "maps", "--target", "rows", "--target", "2", "--method", "gradcam")
    assert status == 0, err
    found = members(tmp_path / "maps")
    assert len(found) == 7
    assert all(sample["gradcam.npy"].shape == (2, 8, 8) for sample in found.values())
    assert all(sample["json"]["target"] == [0, 2] for sample in found.values())
    assert bcos(*arguments, "--out", "own", "--target", "label", "--raw-weight")[0] == 0
    assert all(s["json"]["target"] == s["json"]["label"] for s in members(tmp_path / "own").values())
    assert "there is no class 'teapot'" in line(bcos(*arguments, "--out", "no", "--target", "teapot"))
    assert "--target label cannot go with other targets" in line(
        bcos(*arguments, "--out", "no", "--target", "label", "--target", "0")
    )
    assert "holds other maps" in line(bcos(*arguments, "--out", "maps"))
    shown = line(bcos("explain", "model.safetensors", shards, "--out", "no"))
    assert "is a folder of shards; explain them with: bcos maps RUN" in shown
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_processes_share_the_shards(trained, shards, tmp_path):
    trained.save(tmp_path / "model.safetensors")
    explain_shards(trained, shards, tmp_path / "one", MapOptions(), split="train", workers=0)
    command = [sys.executable, "-m", "bcos_cli", "maps", "model.safetensors", "--data", shards, "--split", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = ["--workers", "0", "--out", "two", "--num-processes", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    one, two = members(tmp_path / "one"), members(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, sample in one.items():
        np.testing.assert_allclose(sample["bcos.npy"], two[key]["bcos.npy"], atol=2e-3)


def test_shards_of_one_name_in_two_folders_have_maps_of_their_own(shards, trained, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(shards, folder)
    index = json.loads((folder / "index.json").read_text())
    tests = [record for record in index["shards"] if record["split"] == "test"]
    for record, place in zip(tests, ("a", "b"), strict=True):
        (folder / place).mkdir()
        (folder / record["name"]).rename(folder / place / "x.tar")
        record["name"] = f"{place}/x.tar"
    (folder / "index.json").write_text(json.dumps(index))
    for finished in (0, 2):
        written = explain_shards(trained, str(folder), tmp_path / "maps", MapOptions(), workers=0)
        assert (written.shards, written.resumed) == (2, finished)
    described = json.loads((tmp_path / "maps" / "maps.json").read_text())["shards"]
    assert [(shard["name"], shard["samples"]) for shard in described] == [("a/x.tar", 5), ("b/x.tar", 2)]
    assert all((tmp_path / "maps" / shard["name"]).stat().st_size == shard["bytes"] for shard in described)


@pytest.mark.parametrize("name", ["http://host/../../a/x.tar", "http://host//a/b/../x.tar", "../a/x.tar", "/a/x.tar"])
def test_maps_and_notes_lie_in_the_folder_of_maps_wherever_a_shard_is(name, tmp_path):
    record = ShardRecord.model_construct(name=name)
    assert record.place == "a/x.tar"
    assert MapsFolder(tmp_path, {}, [record]).note(record) == tmp_path / ".finished/a/x.tar.json"
