"""Check of the batches: how processes share a step, and what is left out or idle. Imports no torch."""

from bcos_cli.doctor.finding import Findings, PlannedRun, note, ok, problem
from bcos_cli.train.batch_size import BatchPlan, check_mixing, plan_batches
from bcos_core.errors import BcosError

LEFT_OUT = 0.01
"""Share of the images that an epoch may leave out before it is noted."""


def check_batches(run: PlannedRun) -> Findings:
    """Check that the batch can be split over the processes, and that there are enough shards for them."""
    recipe = run.recipe
    plan = plan_batches(recipe.train, run.processes)
    total = run.splits.trained_on(run.index)
    yield ok(
        f"{plan.effective} images a step: {plan.per_process} a process × {plan.world} processes "
        f"× {plan.accumulate} accumulated batches"
    )
    if plan.per_process % recipe.data.repeats:
        yield problem(
            f"data.repeats={recipe.data.repeats} does not divide the {plan.per_process} images of a process's batch; "
            "change one of them"
        )
    try:
        check_mixing(plan, recipe.mixing)
    except BcosError as reason:
        yield problem(str(reason))
    if total < plan.effective:
        yield problem(f"{total} training images are fewer than the {plan.effective} of one step; use a smaller batch")
        return
    steps = total // plan.effective
    yield from _epochs(run, plan, total, steps)
    yield from _loaders(run, plan, steps)


def _epochs(run: PlannedRun, plan: BatchPlan, total: int, steps: int) -> Findings:
    train, schedule = run.recipe.train, run.recipe.schedule
    warmup = schedule.warmup(steps)
    yield ok(f"{steps:,} steps an epoch, {steps * train.epochs:,} in {train.epochs} epochs, {warmup:,} of them warm-up")
    rest = total - steps * plan.effective
    if rest > LEFT_OUT * total:
        yield note(f"every epoch leaves out {rest:,} of {total:,} images, which do not fill a batch")


def _loaders(run: PlannedRun, plan: BatchPlan, steps: int) -> Findings:
    data = run.recipe.data
    shards = len(run.index.of(run.splits.train))
    readers = run.processes * max(data.workers, 1)
    if data.workers > steps * plan.accumulate:
        yield note(
            f"{data.workers} loader processes for {steps * plan.accumulate} batches an epoch: some have nothing to do"
        )
    if readers > shards:
        yield note(
            f"{readers} processes share {shards} shards: every image is still used once, but each process skips images "
            "of the others; smaller shards are quicker"
        )
    else:
        yield ok(f"{shards:,} training shards for {readers} reading processes")
