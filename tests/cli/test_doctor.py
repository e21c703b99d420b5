"""``bcos doctor``: each problem provoked, and nothing found where nothing is wrong."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from filelock import FileLock
from torch import nn

from bcos_cli.config import dump_recipe
from bcos_cli.config.locations import with_absolute_paths
from bcos_cli.data.index import load_index
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.doctor import machine
from bcos_cli.doctor.checkup import examine
from bcos_cli.doctor.finding import note
from bcos_cli.doctor.network import _composition
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.validation_split import with_validation
from bcos_core.plugins import PluginInfo

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def found(monkeypatch):
    """Texts of a check, by status."""

    def run(recipe, check, out="run", **options):
        every = {"ok": [], "note": [], "problem": []}
        for finding in examine(recipe, Path(out), **options):
            if finding.check == check:
                every[finding.status].append(finding.text)
        return every

    return run


@pytest.fixture
def packed(tmp_path):
    """Shards of images with these labels."""

    def make(labels, classes=("cat", "dog"), size=100, split="train"):
        items = [ImageItem(f"{split}/{i:03d}.png", split, label) for i, label in enumerate(labels)]
        items += [ImageItem("test/t.png", "test", items[0].label)]
        pngs = {item.path: encode_png([[i % 250] * 8] * 8) for i, item in enumerate(items)}
        pack(ArraySource(list(classes), items, pngs), "s", tmp_path / "packed", samples_per_shard=size, workers=1)
        return {"path": str(tmp_path / "packed")}

    return make


@pytest.fixture
def copied(shards, tmp_path):
    return Path(shutil.copytree(shards, tmp_path / "copied"))


def test_run_without_problems_has_none_and_nothing_is_written(recipe, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    findings = list(examine(recipe(), Path("run")))
    assert {f.check for f in findings} == {"plugins", "data", "pixels", "batches", "network", "machine"}
    assert [f for f in findings if f.status == "problem"] == []
    assert sorted(tmp_path.rglob("*")) == before


def test_command_exits_1_with_problems(recipe, bcos, line):
    Path("r.yaml").write_text(dump_recipe(recipe()))
    status, out, err = bcos("doctor", "r.yaml", "--out", "run")
    assert status == 0, err
    assert "0 problems" in out
    assert "3 classes of 8 to 8 training images" in out
    status, out, _ = bcos("doctor", "r.yaml", "--json", "-o", "train.batch_size=25", "--num-processes", "2")
    assert status == 1
    problems = [f["text"] for f in json.loads(out) if f["status"] == "problem"]
    assert any("train.batch_size=25 cannot be split over 2 processes" in text for text in problems)
    assert "there is no recipe 'cifar_resnet20'; did you mean" in line(bcos("doctor", "cifar_resnet20"))
    assert "no data to train on" in line(bcos("doctor", "cifar10_resnet20"))


def test_broken_and_slow_plugins_are_named(found, recipe, monkeypatch):
    infos = [
        PluginInfo("bcos_cli", "theirs:a", "theirs.a", "theirs", "ImportError: no torch"),
        PluginInfo("bcos_cli", "theirs:b", "theirs.b", "theirs", None, 1.5),
    ]
    monkeypatch.setattr("bcos_cli.doctor.machine.all_plugins", lambda: infos)
    told = found(recipe(), "plugins")
    assert told["problem"] == ["theirs:a (theirs.a) is broken: ImportError: no torch; fix or uninstall theirs"]
    assert told["note"] == ["theirs:b takes 1,500 ms to import; every command waits for it"]
    assert "third-party: theirs:a, theirs:b" in told["ok"][0]


def test_missing_short_and_changed_shards(found, recipe, copied):
    first, second, third = sorted(copied.glob("train-*.tar"))[:3]
    damaged = recipe(data={"path": str(copied)})
    whole = bytearray(third.read_bytes())
    whole[1500] ^= 1
    third.write_bytes(whole)
    assert found(damaged, "data")["problem"] == []  # of the same size
    assert "SHA-256 differs" in found(damaged, "data", hashes=True)["problem"][0]
    second.write_bytes(second.read_bytes()[:-512])
    first.unlink()
    told = found(damaged, "data")["problem"]
    assert told[0].startswith(f"2 of 7 local shards are damaged: {first.name} missing, {second.name} has ")
    assert len(found(damaged, "data", hashes=True)["problem"]) == 3
    for shard in copied.glob("train-*.tar"):
        shard.unlink()
    assert any("cannot open the shard" in text for text in found(damaged, "network")["problem"])


def test_shards_that_cannot_be_reached(found, recipe, copied):
    remote = recipe(data={"path": f"pipe:cat {copied}"})
    assert len(found(remote, "data")["ok"]) == 5
    for shard in copied.glob("test-*.tar"):
        shard.write_bytes(b"")
    assert "split test: cannot read pipe:cat" in found(remote, "data")["problem"][0]


def test_classes_that_are_rare_missing_or_alone(found, recipe, packed):
    data = packed([0] * 30 + [1] * 2, ("cat", "dog", "fox"))
    told = found(recipe(data=data), "data")
    assert told["note"][0] == "1 classes have no training images: fox"
    assert told["note"][1].startswith("3 classes of 2 to 30 training images; consider data.balanced=true")
    assert len(found(recipe(data=data | {"balanced": True}), "data")["note"]) == 1
    shutil.rmtree(data["path"])
    assert "all training images are of one class" in found(recipe(data=packed([1] * 30)), "data")["problem"][0]


def test_several_labels_need_a_loss_for_them(found, recipe, copied):
    index = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps(index | {"multi_label": True}))
    told = found(recipe(data={"path": str(copied)}, train={"loss": "cross_entropy"}), "data")
    assert told["problem"] == ["the images have several labels, which train.loss=cross_entropy cannot learn; use bce"]


@pytest.mark.parametrize(
    ("sections", "processes", "status", "text"),
    [
        ({"train": {"batch_size": 9}}, 2, "problem", "train.batch_size=9 cannot be split over 2 processes"),
        ({"train": {"batch_size": 32}}, 1, "problem", "24 training images are fewer than the 32 of one step"),
        ({"data": {"repeats": 3}}, 1, "problem", "data.repeats=3 does not divide the 8 images of a process's batch"),
        ({"train": {"batch_size": 6}, "mixing": {"mixup": 1}}, 2, "problem", "needs batches of an even number of"),
        ({"train": {"batch_size": 10}}, 1, "note", "every epoch leaves out 4 of 24 images"),
        ({"data": {"workers": 4}}, 1, "note", "4 loader processes for 3 batches an epoch"),
        ({"data": {"workers": 4}}, 2, "note", "8 processes share 5 shards"),
        ({"train": {"max_batch": 2}}, 2, "ok", "8 images a step: 2 a process × 2 processes × 2 accumulated batches"),
        ({"train": {"compile": "auto"}}, 1, "note", "whether the network is compiled is decided when the run starts"),
        ({}, 1, "ok", "3 steps an epoch, 6 in 2 epochs, 0 of them warm-up"),
    ],
)
def test_batches(sections, processes, status, text, found, recipe):
    told = found(recipe(**sections), "batches", processes=processes)
    assert any(text in line for line in told[status]), told


@pytest.mark.parametrize(
    ("sections", "status", "text"),
    [
        ({"train": {"loss": "losses_of_the_test:infinite"}}, "problem", "the loss is not finite"),
        ({"train": {"loss": "losses_of_the_test:indifferent"}}, "problem", "parameters get no gradient"),
        (
            {"train": {"loss": "losses_of_the_test:raising"}},
            "problem",
            "the loss 'losses_of_the_test:raising' failed: ZeroDivisionError: a mistake",
        ),
        ({"model": {"name": "cifar10_resnet21"}}, "problem", "there is no model 'cifar10_resnet21'; did you mean"),
        ({"model": {"options": {"norm": "batch"}}}, "note", "norm shifts ("),
        ({"model": {"freeze": ["*"]}}, "problem", "all parameters are frozen"),
        ({"model": {"name": "standard_cifar10_resnet20"}}, "ok", "a network without B-cos layers of"),
        ({"model": {"freeze": ["layer1*"]}}, "ok", "of them frozen"),
        ({"ema": {"decay": 0.9}}, "ok", "of their average"),
        ({"train": {"precision": "bf16"}}, "ok", "logits in bf16 differ by"),
        ({"train": {"batch_size": 4}}, "note", "batch norms see only 4 images at once"),
        ({"train": {"compile": "whole", "compile_backend": "eager"}}, "ok", "contributions and bias add up"),
        ({"train": {"precision": "float64"}}, "ok", "contributions and bias add up"),
    ],
)
def test_network(sections, status, text, found, recipe):
    told = found(recipe(**sections), "network")
    assert any(text in line for line in told[status]), told
    assert status == "problem" or not told["problem"]


def test_linear_layers_and_biases_of_a_converted_network(found, recipe):
    small = {"network": {"depths": [1], "width": 8}}
    options = small | {"keep_bias": True, "keep_norms": True, "skip": ["layer1.0.conv1"]}
    kept = recipe(model={"name": "bcosified/standard_cifar10_resnet20", "options": options})
    told = found(kept, "network")
    assert told["problem"] == []
    assert told["note"][0] == "1 layers are linear, not B-cos: network.layer1.0.conv1"
    assert "norm shifts (" in told["note"][1]
    assert "network.fc.bias" in told["note"][1]
    assert len(told["note"]) == 2
    told = list(_composition(nn.Sequential(nn.Conv2d(6, 2, 1), nn.ReLU(inplace=True)), is_bcos=False))
    assert told[-1] == note("1 modules change their input in place: 1")


def test_little_disk_and_shared_memory(found, recipe, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(10, 9, 1))
    told = found(recipe(data={"workers": 1}), "machine")["problem"]
    assert any("for 4 checkpoints, of 0.0 MB of free disk" in text and "make room" in text for text in told)
    assert any("in shared memory" in text and "--shm-size" in text for text in told)


def test_little_memory_and_few_cores(found, recipe, monkeypatch):
    told = found(recipe(data={"workers": 500}), "machine")
    assert any(text.startswith("501 processes, loaders included, on") for text in told["note"])
    told = found(recipe(data={"shuffle_buffer": 10**9}), "machine")
    assert any("for the shuffle buffers" in text and "lower data.shuffle_buffer" in text for text in told["problem"])


def test_trackers(found, recipe):
    told = found(recipe(train={"trackers": ["tensorbord"]}), "machine")
    assert told["problem"] == ["there is no train.trackers='tensorbord'; did you mean 'tensorboard'?"]
    assert "trackers: none" in found(recipe(train={"trackers": []}), "machine")["ok"]


def test_folder_of_the_run(found, recipe, tmp_path):
    made, folder = recipe(), RunFolder(tmp_path / "run")
    folder.start(made)
    folder.add_metrics({"epoch": 1})
    assert any("1 of 2 epochs, and no checkpoint yet" in text for text in found(made, "machine")["note"])
    (folder.checkpoints / "step-00000003").mkdir(parents=True)
    (folder.checkpoints / "step-00000003" / "state.pt").write_bytes(b"")
    assert any("step-00000003; continue it with --resume" in text for text in found(made, "machine")["note"])
    other = recipe(optimizer={"lr": 0.5})
    assert "(optimizer.lr: 0.01 there, 0.5 here)" in found(other, "machine")["problem"][0]
    with FileLock(tmp_path / "run" / ".lock"):
        assert folder.is_in_use()
        assert "another process is training into 'run'" in found(made, "machine")["problem"][0]
    assert not folder.is_in_use()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "'mine' is not empty, and not a run" in found(made, "machine", out="mine")["problem"][0]


def test_a_run_that_found_values_out_is_that_run(found, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = recipe(train={"compile": "auto", "max_batch": "auto"}, data={"cache": "copies"})
    stored = with_absolute_paths(recipe(train={"compile": "no", "max_batch": 4}, data={"cache": "copies"}), Path("run"))
    folder = RunFolder(tmp_path / "run")
    folder.start(stored)
    (folder.checkpoints / "step-00000003").mkdir(parents=True)
    (folder.checkpoints / "step-00000003" / "state.pt").write_bytes(b"")
    assert any("step-00000003; continue it with --resume" in text for text in found(given, "machine")["note"])


def test_images_that_choose_are_told_and_not_counted_as_trained_on(found, recipe):
    made = recipe(train={"restore_best": True}, data={"val_share": 0.25})
    assert any(
        "train: 18 of 24 images" in text and "chooses the best epoch" in text for text in found(made, "data")["ok"]
    )
    assert any("2 steps an epoch" in text for text in found(made, "batches")["ok"])


def test_folder_with_the_same_run_is_seen_though_its_recipe_says_what_chooses(found, recipe):
    made = recipe(early_stopping={"patience": 2})
    RunFolder(Path("run")).start(with_validation(made, load_index(made.data.path)))
    assert any("holds a run with 0 of" in text for text in found(made, "machine")["note"])
