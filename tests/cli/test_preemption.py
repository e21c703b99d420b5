"""Runs that a scheduler ends, in processes of their own, and folders in use."""

import os
import signal
import subprocess
import sys
import time

import pytest
from same_runs import assert_same, metrics

from bcos_cli.config import dump_recipe
from bcos_cli.processes.signals import EXIT_STATUS, Preempted, Stopper
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.train_step import TrainStep
from bcos_cli.train.trainer import Trainer, train, trained
from bcos_core import BcosError


@pytest.fixture
def start(tmp_path):
    """Start the program; what is still running in the end is killed."""
    started = []

    def begin(*arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "bcos_cli", *map(str, arguments)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def wait_for_lines(run, count, process):
    deadline = time.monotonic() + 120
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def long_recipe(recipe, tmp_path):
    made = recipe(
        train={"epochs": 30, "batch_size": 4, "explained_images": 1},
        data={"workers": 1, "augment": {"pad_crop": 1}},
        evaluation={"explainers": ["bcos"], "gridpg_grids": 0, "gallery_per_class": 0, "neurons": 0, "batch_size": 4},
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(made))
    return made


def test_pre_empted_run_exits_with_its_status_and_resumes_bit_identical(long_recipe, start, tmp_path):
    process = start("train", "r.yaml", "--out", "run")
    wait_for_lines(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGUSR1)
    _, told = process.communicate(timeout=60)
    assert process.returncode == EXIT_STATUS == 75, told
    assert "ended by SIGUSR1 after step" in told
    assert "Traceback" not in told
    assert RunFolder(tmp_path / "run").preempted.exists()
    assert 2 <= len(metrics(tmp_path / "run")) < 30
    train(long_recipe, tmp_path / "run", resume=True)
    train(long_recipe, tmp_path / "whole")
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_pre_empted_processes_agree_and_fewer_of_them_go_on(long_recipe, start, tmp_path):
    process = start("train", "r.yaml", "--out", "run", "--num-processes", 2)
    wait_for_lines(tmp_path / "run", 1, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == EXIT_STATUS, told
    assert told.count("ended by SIGTERM after step") == 1
    process = start("train", "--resume", "--out", "run", "-o", "evaluation.explainers=[gradient]")
    _, told = process.communicate(timeout=180)
    assert process.returncode == 0, told
    assert "resumed with 1 processes instead of 2" in told
    assert [line["epoch"] for line in metrics(tmp_path / "run")] == list(range(1, 31))
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("moment", ["before", "while it is scored"])
def test_signal_after_the_last_epoch_ends_the_scoring_which_is_done_on_resuming(moment, recipe, tmp_path, monkeypatch):
    """Nobody else gets the folder meanwhile."""
    wanted, out = recipe(train={"epochs": 1}), tmp_path / "run"
    reached = []

    finish = Trainer.finish

    def finish_and_send(trainer):
        if moment == "before":
            os.kill(os.getpid(), signal.SIGUSR1)
        return finish(trainer)

    def train_and_score():
        with trained(wanted, out):
            reached.append("scoring")
            assert RunFolder(out).is_in_use()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
            reached.append("the end")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "finish", finish_and_send)
        with pytest.raises(Preempted):
            train_and_score()
    assert reached == ([] if moment == "before" else ["scoring"])
    assert RunFolder(out).preempted.exists()
    assert not RunFolder(out).is_in_use()
    before = metrics(out)
    with trained(wanted, out, resume=True) as result:
        assert not RunFolder(out).preempted.exists()
        assert result.scores.samples == 7
    assert metrics(out) == before


def test_a_run_whose_time_is_up_ends_with_a_checkpoint_in_time_and_resumes_bit_identical(
    recipe, tmp_path, capsys, monkeypatch
):
    wanted = recipe(train={"epochs": 4, "batch_size": 4, "explained_images": 0})
    monkeypatch.setattr(
        TrainStep, "run", lambda step, *batch, run=TrainStep.run: (time.sleep(0.05), run(step, *batch))[1]
    )
    limit, out, calls = 0.75, tmp_path / "run", 0
    limited = wanted.model_copy(update={"train": wanted.train.model_copy(update={"max_hours": limit / 3600})})
    while not (out / "model.safetensors").exists():
        began = time.monotonic()
        try:
            train(limited, out, resume=calls > 0)
        except Preempted:
            assert time.monotonic() - began < limit + 0.25  # what follows the checkpoint takes a moment
            assert RunFolder(out).preempted.exists()
            assert "ended by train.max_hours=0.000208333 after step" in capsys.readouterr().err
        calls += 1
        assert calls < 20
    assert calls > 1
    train(wanted, tmp_path / "whole")
    assert_same(out, tmp_path / "whole")


def test_time_that_is_up_ends_a_block_at_once():
    stopper = Stopper(bool, every=1, hours=0.5 / 3600)
    with stopper.listening(), pytest.raises(Preempted), stopper.at_once():
        time.sleep(10)
    assert stopper.received == "train.max_hours=0.000138889"


def test_what_needs_more_time_than_is_left_is_not_begun():
    stopper = Stopper(bool, every=1, hours=1)
    assert not stopper.asked(3500)
    assert stopper.asked(3570)  # a hundredth is kept to end in order
    assert not Stopper(bool, every=1, hours=1, began=time.monotonic() - 3500).asked(0)
    assert Stopper(bool, every=1, hours=1, began=time.monotonic() - 3570).asked(0)
    assert not Stopper(bool, every=1).asked(1e9)


def test_two_runs_into_one_folder_are_refused(recipe, tmp_path):
    train(recipe(train={"epochs": 1}), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with (
        RunFolder(tmp_path / "run").locked(),
        pytest.raises(BcosError, match=r"another process is training into '.*run' .*; wait for it, or choose another"),
    ):
        train(recipe(train={"epochs": 1}), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
