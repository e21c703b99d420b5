"""``train.compile: auto``: the whole network on a GPU, and on a CPU where that saves more time than it takes."""

import os
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from bcos_cli import console
from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex
from bcos_cli.train import fsdp
from bcos_cli.train.batch_size import AUTO, plan_batches
from bcos_cli.train.trial_step import trial_step
from bcos_cli.train.validation_split import Splits

PAYS_FROM = 0.5
"""Hours that a training on a CPU must take for compiling to pay, for each time that a network is compiled. Of the five
networks in docs/performance.md, DenseNet-121 takes longest to make up for it: 487 s to compile, a third saved."""
_ANNEALED = 3
"""Times that a network is compiled whose B grows: for B = 1, for what lies between, and for the last B."""
_IMAGES = 8
"""Of a step that is timed; that of a whole batch may take a minute."""
_COMPILERS = ("g++", "clang++", "c++", "cl")


def with_compilation(recipe: Recipe, index: ShardIndex, accelerator: Accelerator) -> Recipe:
    """Return the recipe with what ``train.compile: auto`` stands for, which ``config.yaml`` then names.

    Args:
        recipe: one with another value stays as it is.
    """
    if recipe.train.compile != AUTO:
        return recipe
    found, why = broadcast_object_list(list(_choice(recipe, index, accelerator)))
    if accelerator.is_main_process:
        console.err.print(f"train.compile: {found} (auto): {why}")
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": found})})


def _choice(recipe: Recipe, index: ShardIndex, accelerator: Accelerator) -> tuple[Literal["no", "whole"], str]:
    """Return whether to compile, and why."""
    kind = accelerator.device.type
    if kind in ("cuda", "xpu"):
        return ("whole", f"on {kind}") if find_spec("triton") else ("no", "Triton is not installed")
    if kind != "cpu":
        return "no", f"on {kind}"
    if fsdp.is_sharded(accelerator):
        return "no", "a sharded network on CPUs"
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS))):
        return "no", "there is no C++ compiler; set CXX"
    share = plan_batches(recipe.train, accelerator.num_processes).per_process
    images = min(share, _IMAGES)
    samples = Splits.of(recipe.data, index).trained_on(index)
    seen = recipe.train.epochs * samples * recipe.data.repeats / accelerator.num_processes
    hours = _step_seconds(trial_step(recipe, index, accelerator), images) / images * seen / 3600
    least = PAYS_FROM * (_ANNEALED if recipe.annealing.exponent_epochs else 1)
    why = f"about {hours:.1f} hours uncompiled, and it pays from {least:g}"
    return ("whole" if hours >= least else "no"), why


def _step_seconds(step: Callable[[int], None], images: int) -> float:
    step(images)  # makes the state of the optimizer
    times = []
    for _ in range(2):
        start = time.perf_counter()
        step(images)
        times.append(time.perf_counter() - start)
    return min(times)
