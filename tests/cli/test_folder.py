import json

import pytest

from bcos_cli.config import load_recipe
from bcos_cli.training.folder import RunFolder
from bcos_core import BcosError


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


def test_empty_folder_is_taken(run, recipe):
    run.path.mkdir(parents=True)
    run.start(recipe())
    assert run.config.exists()


def test_resuming_with_another_recipe_names_keys_and_both_values(run, recipe):
    run.start(recipe())
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


def test_line_that_was_cut_off_by_a_crash_is_dropped(run, recipe):
    run.start(recipe())
    run.add_metrics({"epoch": 1})
    with run.metrics.open("a") as file:
        file.write('{"epoch": 2, "lo')
    run.keep_metrics(1)
    run.add_metrics({"epoch": 2})
    assert [m["epoch"] for m in run.read_metrics()] == [1, 2]
