"""Runs whose processes are really killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from same_runs import assert_same

from bcos_cli.config import dump_recipe
from bcos_cli.train.trainer import train

KILLS = 12


def test_run_that_is_killed_over_and_over_ends_bit_identical(recipe, tmp_path):
    """At chosen places (in a checkpoint, between two renames, in an evaluation, ...) and then at random."""
    wanted = recipe(
        model={"name": "cifar10_resnet20", "options": {"depths": [1], "width": 8, "drop_path": 0.3}},
        data={"augment": {"pad_crop": 1, "horizontal_flip": 0.5}, "val_share": 0.25},
        train={"epochs": 40, "batch_size": 2, "checkpoint_steps": 5, "explained_images": 1},
        ema={"decay": 0.9, "every": 3},
        mixing={"mixup": 0.2},
        schedule={"warmup_epochs": 1},
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(wanted))
    script = Path(__file__).with_name("kill_and_resume.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), "r.yaml", "killed", str(KILLS)],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout.splitlines()[-1])
    assert len(places) == KILLS
    assert len({checkpoint for _, checkpoint in places}) > KILLS // 3  # spread over the run: it went on in between
    train(wanted, tmp_path / "whole")
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()
    )
