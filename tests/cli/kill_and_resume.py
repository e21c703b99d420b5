"""Kills a training run with SIGKILL again and again, each time going on from what is left; prints where.

Run as a program, ``python kill_and_resume.py RECIPE OUT KILLS``: it imports once, and forks for every attempt.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import safetensors.torch
import torch

from bcos_cli import console
from bcos_cli.config import load_recipe
from bcos_cli.train import trainer
from bcos_cli.train.checkpoint import Checkpoints
from bcos_cli.train.run_folder import RunFolder

PLACES = {
    # name: (owner, function, how many calls first, whether the call is made before the process dies)
    "after the weights of a checkpoint, before its state": (safetensors.torch, "save_file", 1, True),
    "before the state of a checkpoint is whole": (torch, "save", 1, False),
    "after a checkpoint is written, before it has its name": (Path, "rename", 1, False),
    "while the best is replaced": (Path, "rename", 3, False),
    "before the line of an epoch": (RunFolder, "add_metrics", 1, False),
    "after the line of an epoch": (RunFolder, "add_metrics", 1, True),
    "in an evaluation": (trainer, "classify", 1, False),
    "after the best is copied": (Checkpoints, "keep_best", 1, True),
}


def die_at(owner, name, calls, is_made):
    real = getattr(owner, name)
    count = [0]

    def deadly(*arguments, **options):
        count[0] += 1
        result = real(*arguments, **options) if count[0] < calls or is_made else None
        if count[0] == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def attempt(recipe, out, place):
    """Start a process that trains; return its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if place is not None:
            die_at(*place)
        trainer.train(recipe, out, resume=(out / "config.yaml").exists())
        os._exit(0)
    except BaseException as reason:
        sys.stderr.write(f"{type(reason).__name__}: {reason}\n")
        os._exit(3)


def was_killed(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if os.WEXITSTATUS(status):
        sys.exit(os.WEXITSTATUS(status))
    return False


def state_of(out):
    steps = sorted(p.name for p in (out / "checkpoints").glob("step-*")) if (out / "checkpoints").exists() else []
    return steps[-1] if steps else "start"


def main(recipe_file, out, kills):
    torch.set_num_threads(1)
    console.err.quiet = True
    recipe = load_recipe(recipe_file)
    rng = random.Random(0)
    found = []
    for name, place in PLACES.items():
        if not was_killed(attempt(recipe, out, place)):
            sys.exit(f"the run ended before it died {name}")
        found.append([name, state_of(out)])
    while len(found) < kills:
        before = state_of(out)
        pid = attempt(recipe, out, None)
        while state_of(out) == before and len(found) % 5:  # every fifth may die before it has come any further
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        if not was_killed(pid):
            sys.exit(f"the run ended after {len(found)} deaths; make it longer")
        found.append(["at random", state_of(out)])
    if was_killed(attempt(recipe, out, None)):
        sys.exit("the last attempt was killed")
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
