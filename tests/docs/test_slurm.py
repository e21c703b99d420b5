"""The job script, with programs of the test's own for those of the cluster."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "one-node.sbatch"
TRAINING = """#!/bin/bash
echo "$@" > started
trap 'sleep 0.2; echo asked >> started; exit 75' USR1
for i in $(seq 100); do sleep 0.05; [ -f go ] && exit $(cat go); done
"""


@pytest.fixture
def job(tmp_path):
    """Start the job script where ``bcos`` and ``scontrol`` are scripts; wait until it trains."""
    for name, text in (("bcos", TRAINING), ("scontrol", '#!/bin/bash\necho "$@" > requeued\n')):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "DATA": "shards", "RUN": "run"}
    process = subprocess.Popen(["bash", str(SCRIPT)], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


def test_job_that_is_told_its_time_is_up_waits_for_the_checkpoint_and_queues_again(job, tmp_path):
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 75
    assert "asked" in (tmp_path / "started").read_text()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.parametrize("status", [0, 2])
def test_job_that_ends_by_itself_has_the_status_of_the_training(status, job, tmp_path):
    (tmp_path / "go").write_text(str(status))
    assert job.wait(20) == status
    assert not (tmp_path / "requeued").exists()


def test_command_of_the_job_is_one_that_bcos_takes(job, tmp_path):
    from bcos_cli.main import run

    arguments = (tmp_path / "started").read_text().split()
    assert arguments[:2] == ["train", "imagenet_bcos_final"]
    assert run(["train", "--help"]) == 0
    (tmp_path / "go").write_text("0")
    assert job.wait(20) == 0


@pytest.mark.parametrize("script", sorted(SCRIPT.parent.glob("*.sbatch")), ids=lambda path: path.stem)
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
