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


SRUN = """#!/bin/bash
echo "$@" > srun
while [ "$1" != bash ]; do shift; done
for k in 0 1; do SLURM_PROCID=$k SLURM_LOCALID=$k "$@" & done
status=0
for job in $(jobs -p); do wait $job || status=$?; done
exit $status
"""
TASK = """#!/bin/bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $@" > "task$RANK"
exit $(cat go)
"""


@pytest.mark.parametrize("status", [0, 2, 75])
def test_tasks_on_several_nodes_know_each_other_and_hand_on_their_status(status, tmp_path):
    scontrol = '#!/bin/bash\n[ "$1" = show ] && echo first || echo "$@" > requeued\n'
    for name, text in (("bcos", TASK), ("scontrol", scontrol), ("srun", SRUN)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "go").write_text(str(status))
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n", "SLURM_CPUS_PER_TASK": "8"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, **slurm, "PATH": path, "DATA": "s h", "RUN": "run"}
    done = subprocess.run(["bash", SCRIPT.with_name("several-nodes.sbatch")], cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == status
    assert (tmp_path / "requeued").exists() is (status == 75)
    command = "train imagenet_bcos_final --data s h --out run --auto-resume"
    for rank in range(2):
        assert (tmp_path / f"task{rank}").read_text() == f"{rank} {rank} 2 first 20007 {command}\n"


@pytest.mark.parametrize("script", sorted(SCRIPT.parent.glob("*.sbatch")), ids=lambda path: path.stem)
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
