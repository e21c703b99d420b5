"""Several processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import safetensors.torch
from torch.distributed.elastic.multiprocessing.api import SignalException

from bcos_cli.config import dump_recipe
from bcos_cli.processes.launcher import _pass_on, without


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["eval", "run", "--num-processes", "2", "--data", "d"], ["eval", "run", "--data", "d"]),
        (["eval", "--num-processes=2", "run"], ["eval", "run"]),
        (["eval", "run"], ["eval", "run"]),
    ],
    ids=" ".join,
)
def test_option_is_left_out_with_its_value(given, kept):
    assert without(given, "--num-processes") == kept


def test_signal_that_comes_before_there_are_processes_ends_the_launch(monkeypatch):
    """Afterwards it is theirs."""
    told = []
    children = []
    monkeypatch.setattr(psutil.Process, "children", lambda _: children)
    with pytest.raises(SignalException) as ended:
        _pass_on(signal.SIGTERM, None)
    assert ended.value.sigval == signal.SIGTERM
    children.append(SimpleNamespace(send_signal=told.append))
    _pass_on(signal.SIGTERM, None)
    assert told == [signal.SIGTERM]


ENDS = """
import multiprocessing, os, subprocess, sys, time
from bcos_cli.processes.parent import LAUNCHER, end_with_launcher, end_with_starter

def work(ready):
    end_with_starter()
    print(os.getpid(), flush=True)
    ready.set()
    time.sleep(60)

if sys.argv[1:] == ["child"]:
    end_with_launcher()
    assert LAUNCHER not in os.environ
    ready = multiprocessing.Event()
    multiprocessing.Process(target=work, args=(ready,), daemon=True).start()
    ready.wait()
    print(os.getpid(), flush=True)
else:
    os.environ[LAUNCHER] = str(os.getpid())
    subprocess.Popen([sys.executable, __file__, "child"])
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_processes_end_when_their_launcher_is_killed(tmp_path):
    (tmp_path / "launch.py").write_text(ENDS, encoding="utf-8")
    with subprocess.Popen([sys.executable, tmp_path / "launch.py"], stdout=subprocess.PIPE, text=True) as launcher:
        started = [psutil.Process(int(launcher.stdout.readline())) for _ in range(2)]
        launcher.kill()
        assert psutil.wait_procs(started, timeout=20)[1] == []


@pytest.mark.slow
def test_training_ends_when_its_launcher_is_killed(recipe, tmp_path):
    wanted = recipe(train={"epochs": 1000}, data={"workers": 1})
    (tmp_path / "r.yaml").write_text(dump_recipe(wanted), encoding="utf-8")
    command = [sys.executable, "-m", "bcos_cli", "train", "r.yaml", "--out", "run", "--num-processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as launcher:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert time.monotonic() < until
            time.sleep(0.2)
        started = psutil.Process(launcher.pid).children(recursive=True)
        assert len(started) >= 4
        launcher.kill()
        assert psutil.wait_procs(started, timeout=60)[1] == []


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bcos_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def scores(path):
    found = json.loads(path.read_text())["scores"]
    return {k: v for k, v in found.items() if k != "images_per_second"}


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does_at_the_same_effective_batch(recipe, tmp_path):
    """Without batch statistics, DDP on half batches, accumulated or not, is one process on whole ones."""
    options = {"depths": [1], "width": 8, "norm": "layer_uncentered"}
    wanted = recipe(
        model={"options": options},
        data={"shuffle_buffer": 1},
        train={"epochs": 3, "batch_size": 24, "precision": "float64"},
        optimizer={"name": "sgd", "lr": 0.1},
        evaluation={"gridpg_grids": 0, "gallery_per_class": 0, "explainers": ["bcos"]},
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(wanted))
    for n, parts in ((1, 1), (2, 2)):
        done = run("train", "r.yaml", "--out", f"run{n}", "--num-processes", n, "-o", f"train.accumulate={parts}")
        assert done.returncode == 0, done.stderr
    one, two = (
        [json.loads(line)["train_loss"] for line in (tmp_path / f"run{n}" / "metrics.jsonl").read_text().splitlines()]
        for n in (1, 2)
    )
    assert one == pytest.approx(two, rel=1e-12)
    assert one[0] > one[1] > one[2]
    one, two = (safetensors.torch.load_file(tmp_path / f"run{n}" / "model.safetensors") for n in (1, 2))
    for key in one:
        assert (one[key] - two[key]).abs().max() <= 1e-6 * max(1, one[key].abs().max()), key  # saved in float32

    for n in (1, 2):
        done = run("eval", "run2", "--num-processes", n, "--json", f"{n}.json", "--workers", 0, "--metric", "top1")
        assert done.returncode == 0, done.stderr
    one, two, trained = (scores(tmp_path / p) for p in ("1.json", "2.json", "run2/evaluation.json"))
    assert one["samples"] == two["samples"] == 7
    for other in (two, trained):
        assert other["confusion"] == one["confusion"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["calibration_error"] == pytest.approx(one["calibration_error"], rel=1e-4)


def test_mistake_in_several_processes_is_status_2_without_a_traceback(recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe(train={"trackers": ["nothing"]})))
    done = run("train", "r.yaml", "--out", "run", "--num-processes", 2)
    assert done.returncode == 2, done.stderr
    assert "there is no train.trackers='nothing'" in done.stderr
    assert "Traceback" not in done.stderr


def test_batch_that_cannot_be_split_is_told_before_processes_are_started(recipe, bcos, line, tmp_path):
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe(train={"batch_size": 9})))
    told = line(bcos("train", "r.yaml", "--out", "run", "--num-processes", 2))
    assert "train.batch_size=9 cannot be split over 2 processes; make it a multiple of 2" in told
