"""Checks of plugins, and of the machine: processors, memory, disk, trackers, and the folder of the run."""

import os
import shutil
from pathlib import Path

import psutil
import torch

from bcos_cli.config.versions import changed_versions, read_versions
from bcos_cli.doctor.finding import Finding, Findings, PlannedRun, gigabytes, note, ok, problem
from bcos_cli.evaluate.metrics import explanation_metrics
from bcos_cli.plugins import all_plugins, versions
from bcos_cli.train.accelerator import make_accelerator
from bcos_cli.train.batch_size import plan_batches
from bcos_cli.train.checkpoint import Checkpoints
from bcos_cli.train.run_folder import RunFolder
from bcos_core.errors import BcosError
from bcos_core.text import listed
from bcos_models import get_spec, is_model

SLOW = 0.2
"""Import time in seconds from which a plugin is noted: every command waits for it."""
SHARED_MEMORY = Path("/dev/shm")
_BATCHES_A_LOADER = 3
"""Batches of a loader process in memory at once: two that are ready, one in the making."""


def check_plugins() -> Findings:
    """Check that all plugins load; tell which versions of packages a run depends on."""
    explanation_metrics()  # marks those whose names are taken
    found = all_plugins()
    for info in found:
        if info.error is not None:
            yield problem(f"{info.name} ({info.value}) is broken: {info.error}; fix or uninstall {info.distribution}")
    for info in found:
        if info.seconds > SLOW:
            yield note(f"{info.name} takes {1000 * info.seconds:,.0f} ms to import; every command waits for it")
    third_party = [info.name for info in found if not info.distribution.startswith("bcos-")]
    more = f"; third-party: {listed(third_party)}" if third_party else ""
    yield ok(f"{len(found)} plugins, imported in {1000 * sum(i.seconds for i in found):,.0f} ms{more}")
    yield ok(", ".join(f"{name} {version}" for name, version in versions().items()))


def check_machine(run: PlannedRun, checkpoint_bytes: int | None) -> Findings:
    """Check that processors, memory and disk suffice, that trackers are installed, and that the folder is free."""
    yield from _processors(run)
    yield from _memory(run)
    yield from _shared_memory(run)
    yield from _disk(run, checkpoint_bytes)
    yield from _trackers(run)
    yield from _folder(run)


def _processors(run: PlannedRun) -> Findings:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if accelerators:
        names = ", ".join(sorted({torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}))
        yield ok(f"{accelerators} accelerators: {names or torch.accelerator.current_accelerator()}")
        if run.processes > accelerators:
            yield problem(f"{run.processes} processes for {accelerators} accelerators; use one process each")
    else:
        yield note("no accelerator: training runs on the CPU")
    busy = run.processes * (run.recipe.data.workers + 1)
    text = f"{busy} processes, loaders included, on {cores} cores"
    yield note(f"{text}; use fewer data.workers, so that they do not wait for each other") if busy > cores else ok(text)


def _memory(run: PlannedRun) -> Findings:
    records = run.index.of(run.splits.train)
    mean = sum(record.bytes for record in records) / max(sum(record.samples for record in records), 1)
    readers = run.processes * max(run.recipe.data.workers, 1)
    needed, free = readers * run.recipe.data.shuffle_buffer * mean, psutil.virtual_memory().available
    text = f"{gigabytes(needed)} for the shuffle buffers, of {gigabytes(free)} of free memory"
    found = _fits(needed, free, text, "lower data.shuffle_buffer or data.workers")
    yield note(text) if free / 2 < needed <= free else found


def _shared_memory(run: PlannedRun) -> Findings:
    """Check the shared memory, in which loader processes hand over batches; containers often have only 64 MB."""
    data = run.recipe.data
    side = data.train_image_size or data.image_size or _own_side(run)
    if not data.workers or side is None or not SHARED_MEMORY.is_dir():
        return
    images = plan_batches(run.recipe.train, run.processes).per_process
    channels = run.index.channels or data.image_channels or 3
    needed = run.processes * data.workers * _BATCHES_A_LOADER * images * channels * side**2
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{gigabytes(needed)} for batches in shared memory, of {gigabytes(free)}"
    yield _fits(needed, free, text, "give the container more (docker run --shm-size), or use fewer data.workers")


def _own_side(run: PlannedRun) -> int | None:
    name = run.recipe.model.name or run.recipe.model.start
    return get_spec(name).input.size if name is not None and is_model(name) else None


def _disk(run: PlannedRun, checkpoint_bytes: int | None) -> Findings:
    if checkpoint_bytes is None:
        return
    existing = next(path for path in (run.out, *run.out.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield problem(f"{str(existing)!r} cannot be written to; choose another folder with --out")
        return
    count = run.recipe.train.keep_checkpoints + 2  # the best, and one that is being written
    earlier = sum(file.stat().st_size for file in RunFolder(run.out).checkpoints.rglob("*") if file.is_file())
    needed, free = max(count * checkpoint_bytes - earlier, 0), shutil.disk_usage(existing).free
    text = f"{gigabytes(needed)} more for {count} checkpoints, of {gigabytes(free)} of free disk at {str(existing)!r}"
    yield _fits(needed, free, text, "make room, or lower train.keep_checkpoints")


def _fits(needed: float, free: float, text: str, remedy: str) -> Finding:
    return problem(f"{text}; {remedy}") if needed > free else ok(text)


def _trackers(run: PlannedRun) -> Findings:
    names = run.recipe.train.trackers
    try:
        make_accelerator(run.recipe.train, run.out)
    except BcosError as reason:
        yield problem(str(reason))
    else:
        yield ok(f"trackers: {', '.join(names) or 'none'}")


def _folder(run: PlannedRun) -> Findings:
    folder, name = RunFolder(run.out), str(run.out)
    if not folder.config.exists():
        if folder.is_free():
            yield ok(f"{name!r} is free")
        else:
            yield problem(f"{name!r} is not empty, and not a run; choose another folder with --out")
        return
    folder.check(run.recipe, resume=True)
    if versions_then := changed_versions(read_versions(folder.path)):
        yield note(f"{name!r} was made with other versions: {versions_then}")
    last = Checkpoints(folder.checkpoints, 1).last()
    epochs = len(folder.read_metrics())
    yield note(
        f"{name!r} holds a run with {epochs} of {run.recipe.train.epochs} epochs"
        + (f" and {last.name}; continue it with --resume" if last is not None else ", and no checkpoint yet")
    )
