import json
import threading

import pytest
from filelock import FileLock

from bcos_cli.config import load_recipe
from bcos_cli.folder_lock import LOCK_NAME
from bcos_cli.train.model import build
from bcos_cli.train.run_folder import RunFolder
from bcos_core import BcosError
from bcos_core.files import write_atomically


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "a")


def test_new_run_has_its_complete_recipe(run, recipe):
    run.start(recipe())
    assert load_recipe(str(run.config)) == recipe()
    run.resume(recipe())


def test_folder_in_use_is_refused(run, recipe, tmp_path):
    run.start(recipe())
    with pytest.raises(BcosError, match=r"a' is not empty; continue that run with --resume, or choose another folder"):
        run.start(recipe())
    (tmp_path / "file").write_text("x")
    with pytest.raises(BcosError, match="file' is not empty"):
        RunFolder(tmp_path / "file").start(recipe())


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "model.safetensors", "report.html", "checkpoints", ".lock", "scores", ".partial"]
)
def test_run_with_a_link_that_leads_out_of_it_is_not_resumed(name, run, recipe, tmp_path):
    run.start(recipe())
    (run.path / name).symlink_to(tmp_path / "victim")
    with (
        pytest.raises(BcosError, match=rf"{name}' is a link that leads out of the run's folder"),
        run.opened(recipe(), resume=True),
    ):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["evaluation.json", "report.html", "scores/scores.csv", ".partial/top1.json"])
def test_run_is_not_scored_through_a_link_that_leads_out_of_it(name, run, recipe, tmp_path, bcos):
    run.start(recipe())
    build(recipe(), ["rows", "columns", "corner"]).save(run.weights)
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).symlink_to(tmp_path / "victim")
    status, _, err = bcos("eval", run.path, "--metric", "top1", "--workers", 0)
    assert status == 2
    assert f"{name}' is a link that leads out of the run's folder" in err
    assert not (tmp_path / "victim").exists()


def test_run_may_link_within_itself(run, recipe):
    run.start(recipe())
    (run.path / "kept").mkdir()
    run.checkpoints.symlink_to("kept")
    with run.opened(recipe(), resume=True):
        pass


def test_empty_folder_is_taken(run, recipe):
    run.path.mkdir(parents=True)
    run.start(recipe())
    assert run.config.exists()


def test_recipe_can_be_corrected_until_something_is_learned(run, recipe):
    run.start(recipe())
    run.resume(recipe(train={"epochs": 5}))
    assert load_recipe(str(run.config)).train.epochs == 5


def test_resuming_with_another_recipe_names_keys_and_both_values(run, recipe):
    run.start(recipe())
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    other = recipe(train={"epochs": 5, "seed": 3}, model={"options": {"depths": [1], "width": 16}})
    with pytest.raises(BcosError, match="has another recipe") as error:
        run.resume(other)
    for part in (
        "model.options.width: 8 there, 16 here",
        "train.epochs: 2 there, 5 here",
        "train.seed: 0 there, 3 here",
    ):
        assert part in str(error.value)
    assert "data" not in str(error.value).partition("(")[2].partition(")")[0]
    assert str(error.value).endswith(f"bcos train --from {run.path} --out FOLDER")


@pytest.mark.parametrize("resume", [False, True])
def test_second_process_is_refused_and_changes_nothing(resume, run, recipe):
    with run.opened(recipe(), resume=False):
        before = run.config.read_text()
        if not resume:
            run.versions.unlink()
            run.config.unlink()  # as if the first had not written it yet
        with (
            pytest.raises(BcosError, match="another process is training into"),
            RunFolder(run.path).opened(recipe(train={"checkpoint_steps": 5}), resume=resume),
        ):
            pass
        assert run.config.exists() is resume
        assert not resume or run.config.read_text() == before


def test_refused_run_leaves_no_folder_behind(run, recipe, tmp_path):
    with pytest.raises(BcosError, match="there is no run"), run.opened(recipe(), resume=True):
        pass
    assert not run.path.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(BcosError, match="is not empty"), RunFolder(tmp_path / "mine").opened(recipe(), resume=False):
        pass
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_a_killed_start_left_is_no_run(run, recipe):
    run.path.mkdir(parents=True)
    (run.path / ".config.yaml.123.tmp").write_text("mod")
    (run.path / ".lock").write_text("")
    run.start(recipe())


def test_what_a_killed_run_was_writing_is_removed(run, recipe):
    run.start(recipe())
    stale = run.path / ".model.safetensors.123.tmp"
    stale.write_text("half of it")
    with run.opened(recipe(), resume=True):
        assert not stale.exists()


def test_hidden_files_of_others_stay(run, recipe):
    run.start(recipe())
    theirs = [run.path / name for name in (".notes.tmp", ".thesis.tex.123.tmp", ".config.yaml.backup.tmp")]
    for path in theirs:
        path.write_text("theirs")
    with run.opened(recipe(), resume=True):
        assert all(path.read_text() == "theirs" for path in theirs)


def test_lock_that_somebody_looks_at_is_waited_for(run):
    run.path.mkdir(parents=True)
    looking = FileLock(run.path / LOCK_NAME, thread_local=False)
    looking.acquire()
    timer = threading.Timer(0.2, looking.release)
    timer.start()
    with run.locked():
        assert RunFolder(run.path).is_in_use()
    timer.join()


def test_machine_that_does_not_see_the_folder_says_so(run, recipe, monkeypatch):
    monkeypatch.setattr("bcos_cli.train.run_folder.VISIBLE_WITHIN", 0.3)
    with pytest.raises(
        BcosError, match=r"the run's folder '.*a' is not visible on .*; choose one that all machines share"
    ):
        run.wait_until_visible()
    timer = threading.Timer(0.1, run.start, [recipe()])
    timer.start()
    run.wait_until_visible()
    timer.join()


def test_full_disk_names_the_file(run, recipe, monkeypatch):
    full = OSError(28, "No space left on device")

    def no_room(*_):
        raise full

    run.start(recipe())
    with monkeypatch.context() as patched:
        patched.setattr("bcos_cli.train.run_folder.os.fsync", no_room)
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'"):
            run.add_metrics({"epoch": 1})
        full.filename = None
        patched.setattr("pathlib.Path.write_bytes", no_room)
        with pytest.raises(OSError, match=r"No space left on device: '.*x.json'"):
            write_atomically(run.path / "x.json", "{}")
    assert not list(run.path.glob(".x.json*"))


def test_nothing_to_resume_is_told(run, recipe):
    with pytest.raises(BcosError, match=r"there is no run in '.*a' to resume; leave out --resume"):
        run.resume(recipe())


def test_metrics_are_lines_and_those_of_later_epochs_can_be_dropped(run, recipe):
    run.start(recipe())
    assert run.read_metrics() == []
    for epoch in (1, 2, 3):
        run.add_metrics({"epoch": epoch, "loss": epoch / 2})
    assert [json.loads(text) for text in run.metrics.read_text().splitlines()] == run.read_metrics()
    run.keep_metrics(2)
    assert [m["epoch"] for m in run.read_metrics()] == [1, 2]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"epoch": true}', '{"epoch": 1, "loss": null}', '{"loss": 1}', "\x00"]
)
def test_damaged_line_is_named(text, run, recipe):
    run.start(recipe())
    run.add_metrics({"epoch": 1, "loss": float("nan")})
    with run.metrics.open("a") as file:
        file.write(f"{text}\n")
    with pytest.raises(BcosError, match=r"line 2 of .*metrics.jsonl is damaged: .*; remove it"):
        run.read_metrics()


def test_metrics_that_are_no_text_are_named(run, recipe):
    run.start(recipe())
    run.metrics.write_bytes(b"\xff\xfe\n")
    with pytest.raises(BcosError, match=r"metrics.jsonl' is not text in UTF-8"):
        run.read_metrics()


def test_line_that_was_cut_off_by_a_crash_is_dropped(run, recipe):
    run.start(recipe())
    run.add_metrics({"epoch": 1})
    with run.metrics.open("a") as file:
        file.write('{"epoch": 2, "lo')
    run.keep_metrics(1)
    run.add_metrics({"epoch": 2})
    assert [m["epoch"] for m in run.read_metrics()] == [1, 2]
