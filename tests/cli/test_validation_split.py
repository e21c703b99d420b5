"""Runs: what chooses their epochs, what is scored when, and what they say of it."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from shipped_recipes import LEFT_OPEN
from stripes import SIDE, striped

from bcos_cli.config import load_recipe
from bcos_cli.data.pack import pack
from bcos_cli.data.samples import read_slice
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.runs.evaluation import evaluate_run, finish_run
from bcos_cli.train import trainer
from bcos_cli.train.trainer import train
from bcos_core import BcosError

BEST = {"restore_best": True}
STILL = {"name": "sgd", "lr": 1e-9, "momentum": 0.0}
"""Learns nothing: no epoch is better than the first."""
QUICK = {"explained_images": 0, "trackers": []}


def split_shards(folder, **counts):
    """Shards of splits of so many images; those of ``val`` have other labels than they should."""
    items, pngs = [], {}
    for number, (split, count) in enumerate(counts.items()):
        for i in range(count):
            path = f"{split}/{i:03d}.png"
            items.append(ImageItem(path, split, (i + (split == "val")) % 3))
            pngs[path] = encode_png(striped(i % 3, i + 1000 * number, SIDE))
    pack(ArraySource(["rows", "columns", "corner"], items, pngs), "s", folder, samples_per_shard=5, workers=1)
    return str(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Shards with train, val and test."""
    return split_shards(tmp_path_factory.mktemp("three") / "shards", train=24, val=9, test=6)


@pytest.fixture
def run(tmp_path, recipe):
    """Train, and score the network in the end, as the command does. Returns the folder of the run."""

    def start(shards=None, /, name="run", *, resume=False, train_section=None, data=None, **sections):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        sections.setdefault(
            "evaluation", {"explainers": ["bcos"], "gridpg_grids": 0, "gallery_per_class": 0, "neurons": 0}
        )
        data = {**({} if shards is None else {"path": shards}), **(data or {})}
        made = recipe(train={**QUICK, **(train_section or {})}, data=data, **sections)
        finish_run(train(made, tmp_path / name, resume=resume), tmp_path / name)
        return tmp_path / name

    return start


@pytest.fixture
def opened(monkeypatch):
    """Splits whose shards were opened, in order, with repetitions next to each other left out."""
    found = []

    def noting(part, **options):
        split = Path(part.url).name.rpartition("-")[0]
        if found[-1:] != [split]:
            found.append(split)
        return read_slice(part, **options)

    monkeypatch.setattr("bcos_cli.data.stream.read_slice", noting)
    return found


def lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def config(folder):
    return load_recipe(str(folder / "config.yaml")).data


def weights(path):
    return safetensors.torch.load_file(path / "model.safetensors")


def equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_val_chooses_the_epoch_and_test_is_scored_once_in_the_end(three, run, opened, capsys):
    """Labels of val are wrong on purpose: the more a network learns, the worse it does there."""
    folder = run(three, train_section={"epochs": 6, **BEST}, optimizer={"lr": 0.02})
    assert [split.startswith("test") for split in opened].index(True) == len(opened) - 1
    assert opened[:-1] == ["train", "val"] * 6
    found = lines(folder)
    assert all({"val_loss", "val_top1"} <= line.keys() and line["scored"] == "val" for line in found)
    assert not [key for line in found for key in line if key.startswith("test")]
    best = [line["val_top1"] for line in found]
    assert best.index(max(best)) + 1 == [line["epoch"] for line in found if line.get("best")][-1] < 6
    assert equal(weights(folder), weights(folder / "checkpoints" / "best"))
    assert (config(folder).val_split, config(folder).val_share) == ("val", 0)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["split"], evaluation["scores"]["samples"], evaluation["notes"]) == ("test", 6, [])
    err = capsys.readouterr().err
    assert "val: 9 images of the split 'val': their score chooses the best epoch" in err
    assert "test: 6 images of the split 'test', scored once, in the end" in err
    report = (folder / "report.html").read_text()
    assert f"epoch {best.index(max(best)) + 1}, the best on val" in report


def test_val_says_when_to_stop(three, run):
    folder = run(three, train_section={"epochs": 9}, optimizer=STILL, early_stopping={"patience": 2})
    assert [line["epoch"] for line in lines(folder)] == [1, 2, 3]
    report = (folder / "report.html").read_text()
    assert "val, which say when to stop" in report
    assert "epoch 3, the last" in report


def test_recipe_that_chooses_nothing_ends_with_the_last_epoch(three, run):
    folder = run(three, train_section={"epochs": 3}, optimizer={"lr": 0.02})
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    assert equal(weights(folder), weights(last))
    assert (folder / "checkpoints" / "best").is_dir()


def test_without_val_and_choice_all_images_are_trained_on_and_test_chooses_nothing(run, capsys):
    folder = run(train_section={"epochs": 2})
    assert not (folder / "checkpoints" / "best").exists()
    assert [(line["scored"], line.get("best"), line["step"]) for line in lines(folder)] == [
        ("test", None, 3),
        ("test", None, 6),
    ]
    assert (config(folder).val_split, config(folder).val_share) == (None, 0)
    err = capsys.readouterr().err
    assert "train: 24 images of the split 'train'\n" in err
    assert "7 images of the split 'test', scored after every epoch; they choose nothing: the last epoch counts" in err
    assert "test, which chooses nothing" in (folder / "report.html").read_text()


def test_share_of_train_chooses_where_there_is_no_val(run, capsys):
    folder = run(train_section={"epochs": 2, **BEST}, data={"val_seed": 4})
    values = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    assert (values["val_split"], values["val_share"], values["val_seed"]) == (None, 0.1, 4)
    assert all(line["scored"] == "0.1 of train" and "val_top1" in line for line in lines(folder))
    assert [line["step"] for line in lines(folder)] == [2, 4]  # of 22 images, 8 a step
    err = capsys.readouterr().err
    assert "train: 22 of 24 images of the split 'train'" in err
    assert "val: the other 2 (0.1 of them, data.val_seed=4), which are not trained on" in err


def test_interrupted_run_with_a_share_goes_on_with_the_same_share(run, tmp_path, monkeypatch):
    sections = {"train_section": {"epochs": 4, **BEST}, "data": {"val_share": 0.25}, "optimizer": {"lr": 0.02}}
    whole = run(name="whole", **sections)
    real, calls = trainer.classify, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "classify", killed)
        with pytest.raises(KeyboardInterrupt):
            run(name="killed", **sections)
    folder = run(name="killed", resume=True, **sections)

    def untimed(path):
        return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines(path)]

    assert untimed(folder) == untimed(whole)
    assert equal(weights(folder), weights(whole))
    with pytest.raises(BcosError, match=r"has another recipe \(data.val_seed"):
        run(name="killed", resume=True, **{**sections, "data": {"val_share": 0.25, "val_seed": 1}})


def older(folder):
    """Make a run one of a version that did not say what chooses."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    for key in ("val_split", "val_share", "val_seed"):
        del values["data"][key]
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "model.safetensors").unlink()
    shutil.rmtree(sorted((folder / "checkpoints").glob("step-*"))[-1])


def test_older_run_that_chose_nothing_goes_on_as_it_was_even_with_val(three, run):
    folder = run(three, train_section={"epochs": 3})
    whole = weights(folder)
    older(folder)
    for line in (written := lines(folder)):
        for key in ("loss", "top1"):
            line[f"test_{key}"] = line.pop(f"val_{key}")
        line.pop("scored")
        line["best"] = True
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    run(three, train_section={"epochs": 3}, resume=True)
    assert equal(weights(folder), whole)
    assert [line.get("scored") for line in lines(folder)] == [None, None, "test"]
    assert config(folder).val_share is None


def test_older_run_that_chose_by_its_test_images_is_not_resumed_but_read(run, bcos):
    folder = run(train_section={"epochs": 2, **BEST})
    older(folder)
    with pytest.raises(
        BcosError, match=r"older version, which chose its epochs .* on the test images; start a new run"
    ):
        run(train_section={"epochs": 2, **BEST}, resume=True)
    assert bcos("runs", "show", folder)[0] == 0


def test_scores_of_an_older_run_say_that_their_images_chose(run):
    folder = run(train_section={"epochs": 2, **BEST})
    file = (folder / "model.safetensors").read_bytes()
    older(folder)
    (folder / "model.safetensors").write_bytes(file)
    found = evaluate_run(str(folder), {"metrics": ("top1",)})
    assert found.notes == ["the epoch of the network was chosen on these images (test), in a run of an older version"]


def test_without_a_test_split_val_is_scored_and_it_is_said(run, tmp_path, bcos):
    data = split_shards(tmp_path / "two", train=24, val=9)
    folder = run(data, train_section={"epochs": 2, **BEST})
    notes = [
        "there is no split 'test': the images are those of 'val'",
        "the epoch of the network was chosen on these images (val)",
    ]
    assert json.loads((folder / "evaluation.json").read_text())["notes"] == notes
    assert evaluate_run(str(folder), {"metrics": ("top1",)}).notes == notes
    status, out, err = bcos("eval", folder / "model.safetensors", "--data", data, "--metric", "top1", "--workers", 0)
    assert status == 0, err
    assert "(val)" in err  # a title, which pipes do not get
    assert notes[0] in out
    status, _, err = bcos("maps", folder, "--out", tmp_path / "maps", "--workers", 0)
    assert status == 0, err
    assert notes[0] in " ".join(err.split())


def test_training_without_a_split_to_be_scored_says_what_names_one(run, tmp_path):
    data = split_shards(tmp_path / "one", train=24)
    with pytest.raises(BcosError, match=r"only train; name one \(-o data\.test_split=\.\.\.\), or pack"):
        run(data)


def test_demo_and_recipes_of_papers_choose_nothing():
    from bcos_cli.plugins import recipes
    from bcos_cli.train.validation_split import chooses

    choosing = {name for name in recipes().names() if chooses(load_recipe(name, LEFT_OPEN.get(name, [])))}
    assert choosing == {"finetune"}
