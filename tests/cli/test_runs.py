"""``bcos runs``: runs listed, shown and compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from bcos_cli.config import Recipe
from bcos_cli.runs.compare import plot, recipe_rows, score_rows
from bcos_cli.runs.run import find_runs, read_run
from bcos_cli.train.run_folder import RunFolder
from bcos_core import BcosError


def recipe(**train):
    return Recipe.model_validate({"model": {"name": "cifar10_resnet20"}, "train": {"epochs": 3, **train}})


def line(epoch, top1, role="val", **more):
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train_loss": 1 / epoch,
        f"{role}_loss": 2 / epoch,
        f"{role}_top1": top1,
        "lr": 0.1,
        "images_per_second": 100.0 * epoch,
        "seconds": 60.0,
        **more,
    }


@pytest.fixture
def make(tmp_path):
    def run(name, accuracies=(), *, finished=False, scores=None, **train):
        folder = RunFolder(tmp_path / name)
        folder.start(recipe(**train))
        for epoch, top1 in enumerate(accuracies, start=1):
            folder.add_metrics(line(epoch, top1))
        if finished:
            folder.weights.write_bytes(b"")
        if scores:
            folder.evaluation.write_text(json.dumps({"metrics": scores}))
        return folder

    return run


@pytest.fixture
def three(make):
    make("runs/b/slow", [0.5, 0.7, 0.6], finished=True, scores={"top1": 0.6, "gridpg/bcos": 0.9}, batch_size=32)
    make("runs/a", [0.25])
    make("runs/new")
    return Path("runs")


def test_runs_are_listed_with_state_and_scores(three, bcos):
    status, out, err = bcos("runs", "list")
    assert status == 0, err
    rows = {row["name"]: row for row in json.loads(bcos("runs", "list", "runs", "--json")[1])}
    assert list(rows) == ["a", "b/slow", "new"]
    slow = rows["b/slow"]
    assert (slow["state"], slow["epochs"], slow["of"], slow["best"], slow["last"]) == ("finished", 3, 3, 0.7, 0.6)
    assert (slow["gridpg"], slow["minutes"], slow["model"]) == (0.9, 3.0, "cifar10_resnet20")
    assert (rows["a"]["state"], rows["a"]["best"], rows["new"]["best"]) == ("interrupted", 0.25, None)
    assert (slow["scored"], rows["new"]["scored"]) == ("val", None)
    header, *listed = (text.split("\t") for text in out.splitlines())
    assert header[3:6] == ["best", "last", "of split"]
    assert [row[3:6] for row in listed if row[0] == "b/slow"] == [["0.7", "0.6", "val"]]
    for text in ("b/slow", "finished", "3/3", "0.7", "0.9", "interrupted", "0/3"):
        assert text in out


def test_scores_on_test_images_choose_no_best_epoch(make):
    folder = make("runs/a")
    for epoch, top1 in enumerate([0.5, 0.7, 0.6], start=1):
        folder.add_metrics(line(epoch, top1, role="test"))
    assert (read_run(folder.path).best, read_run(folder.path).last) == (None, 0.6)
    assert read_run(folder.path).scored == "test"
    folder.add_metrics({**line(4, 0.5), "scored": "0.1 of train"})
    assert read_run(folder.path).scored == "0.1 of train"


def test_lists_are_sorted_by_choice(three, bcos):
    names = [row["name"] for row in json.loads(bcos("runs", "list", "--sort", "best", "--json")[1])]
    assert names == ["b/slow", "a", "new"]
    by_last = json.loads(bcos("runs", "list", "--sort", "last", "--json")[1])
    assert [row["name"] for row in by_last] == ["b/slow", "a", "new"]
    (three / "a" / "metrics.jsonl").open("a").close()
    os.utime(three / "a" / "metrics.jsonl", (2e9, 2e9))
    assert json.loads(bcos("runs", "list", "--sort", "changed", "--json")[1])[0]["name"] == "a"


def test_run_that_is_being_trained_is_running(three):
    with FileLock(three / "a" / ".lock"):
        assert read_run(three / "a").state == "running"
    assert read_run(three / "a").state == "interrupted"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "a: ["),
        ("config.yaml", "just text"),
        ("config.yaml", "model: 5"),
        ("config.yaml", "train: {epochs: many}"),
        ("metrics.jsonl", "{\n"),
        ("metrics.jsonl", "5\n"),
        ("metrics.jsonl", '{"epoch": 1}\n'),
        ("metrics.jsonl", '{"epoch": 1, "test_top1": "x"}\n'),
        ("metrics.jsonl", '{"epoch": 0, "test_top1": 1}\n'),
        ("metrics.jsonl", '{"epoch": 1, "test_top1": 1, "scored": 5}\n'),
        ("metrics.jsonl", '{"epoch": 1, "test_top1": 1, "scored": "a\\u001b[31m"}\n'),
        ("metrics.jsonl", '{"epoch": 1, "epoch": 1, "test_top1": 1}\n'),
        ("metrics.jsonl", "[" * 100_000 + "\n"),
        ("evaluation.json", "{}"),
        ("evaluation.json", "[]"),
        ("evaluation.json", '{"metrics": {"top1": "x"}}'),
    ],
)
def test_run_that_cannot_be_read_does_not_hide_the_others(file, content, three, bcos):
    (three / "new" / file).write_text(content)
    status, out, err = bcos("runs", "list")
    assert status == 1
    assert "b/slow" in out
    assert "bcos: new: the files of the run" in err
    assert json.loads(bcos("runs", "list", "--json")[1])[-1]["error"]


def test_line_that_is_being_written_is_not_read(three):
    with (three / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "ste')
    assert len(read_run(three / "a").epochs) == 1


def test_run_is_shown(three, bcos):
    status, out, err = bcos("runs", "show", "runs/b/slow")
    assert status == 0, err
    for text in ("finished, 3 of 3 epochs", "train.batch_size", "gridpg/bcos", "images_per_second"):
        assert text in out
    shown = json.loads(bcos("runs", "show", "runs/b/slow", "--json")[1])
    assert shown["recipe"] == {"model.name": "cifar10_resnet20", "train.batch_size": 32, "train.epochs": 3}
    assert [entry["epoch"] for entry in shown["metrics"]] == [1, 2, 3]


def test_runs_are_compared(three, bcos):
    found = [read_run(three / name) for name in ("a", "b/slow")]
    assert recipe_rows(found) == {"train.batch_size": [64, 32]}
    rows = score_rows(found)
    assert rows["best accuracy"] == [0.25, 0.7]
    assert rows["images_per_second"] == [100, 200]
    assert rows["gridpg/bcos"] == [None, 0.9]
    out = bcos("runs", "compare", "runs/a", "runs/b/slow")[1]
    assert "train.batch_size" in out
    assert "gridpg/bcos\t–\t0.9" in out
    assert json.loads(bcos("runs", "compare", "runs/a", "runs/b/slow", "--json")[1])["scores"] == rows


def test_keys_that_an_older_version_did_not_have_are_no_difference(three):
    config = three / "a" / "config.yaml"
    config.write_text("".join(text for text in config.read_text().splitlines(True) if "label_smoothing" not in text))
    assert list(recipe_rows([read_run(three / name) for name in ("a", "b/slow")])) == ["train.batch_size"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_learning_curves_are_drawn(suffix, three, bcos):
    path = Path("plots") / f"curves.{suffix}"
    status, out, err = bcos("runs", "compare", "runs/a", "runs/b/slow", "runs/new", "--plot", path)
    assert status == 0, err
    assert str(path) in out
    assert path.stat().st_size > 1000
    if suffix == "png":
        assert len(Image.open(path).convert("RGB").getcolors(10**6)) > 50


def test_curves_of_averaged_weights_and_other_measures(make, tmp_path):
    folder = make("runs/a")
    folder.add_metrics(line(1, 0.5, ema_top1=0.75))
    assert read_run(folder.path).best == 0.75
    labels = make("runs/labels")
    labels.add_metrics({"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_map": 0.5, "val_top1": 0.1})
    assert (read_run(labels.path).measure, read_run(labels.path).best) == ("map", 0.5)
    assert read_run(labels.path).minutes == 0
    plot([read_run(folder.path), read_run(labels.path)], ["a", "labels"], tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    assert "#1f77b4" in drawn
    assert "#ff7f0e" in drawn


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list", "nowhere"], "there is no folder 'nowhere'"),
        (["show", "nowhere"], "there is no run in 'nowhere'"),
        (["compare", "runs"], "there is no run in 'runs'"),
        (["compare", "runs/a", "--plot", "x.gif"], "--plot x.gif must end with .png, .svg, .pdf"),
        (["compare", "runs/new", "--plot", "x.png"], "no epoch of these runs is finished"),
        (["compare", "runs/a", "--plot", "runs/a/config.yaml/x.png"], "is a file, not a folder"),
        (["compare"], "Missing argument"),
    ],
)
def test_mistakes_are_one_line(arguments, text, three, bcos, line):
    assert text in line(bcos("runs", *arguments))


def test_no_runs_is_said(tmp_path, bcos):
    (tmp_path / "empty").mkdir()
    assert bcos("runs", "list", "empty")[:2] == (0, "there are no runs in empty\n")
    with pytest.raises(BcosError, match="there is no folder"):
        find_runs(tmp_path / "nothing")


def test_nothing_of_it_imports_torch(three):
    code = "import sys; from bcos_cli.main import run; run(['runs', 'list']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_listing_writes_nothing(three, bcos, monkeypatch):
    folder = RunFolder(three / "a")
    with folder.locked():
        monkeypatch.setattr("bcos_cli.folder_lock.FileLock", None)  # opens its file for writing
        before = {path: path.stat().st_mtime_ns for path in three.rglob("*")}
        rows = {row["name"]: row["state"] for row in json.loads(bcos("runs", "list", "--json")[1])}
        assert {path: path.stat().st_mtime_ns for path in three.rglob("*")} == before
    assert rows == {"a": "running", "b/slow": "finished", "new": "interrupted"}
