"""Checks of the data: shards that exist and are whole, classes that can be learned, batches for all processes."""

import tarfile
from pathlib import Path

from bcos_cli import console
from bcos_cli.data.index import ShardIndex, shard_urls
from bcos_cli.data.loader import images_at
from bcos_cli.data.reading import Reading
from bcos_cli.data.remote import open_url
from bcos_cli.data.samples import read_samples
from bcos_cli.data.verify import size_problem, verify
from bcos_cli.doctor.finding import Findings, PlannedRun, note, ok, problem
from bcos_cli.train.batch_size import AUTO, BatchPlan, check_mixing, plan_batches
from bcos_core.address import is_address
from bcos_core.errors import BcosError, first_line
from bcos_core.text import listed
from bcos_models import InputSpec

UNBALANCED = 10
"""Ratio of the largest class to the smallest from which balancing is suggested."""
LEFT_OUT = 0.01
"""Share of the images that an epoch may leave out before it is noted."""
SEEN = 64
"""Training images that are looked at."""
FLAT = 2
"""Standard deviation of the 8-bit values of every channel below which an image is nearly one colour."""
MANY_FLAT = 0.1
"""Share of such images from which it is noted."""
_SIDE = 64
_VERIFY = "see bcos shards verify"


def check_data(run: PlannedRun) -> Findings:
    """Check that the splits exist, that their shards are what the index says, and that every class has images."""
    index = run.index
    for split in _splits(run):
        yield ok(f"split {split}: {index.samples(split):,} images in {len(index.of(split)):,} shards")
    if run.splits.role == "val":
        yield ok("; ".join(run.splits.summary(run.recipe.train, run.recipe.early_stopping, index)))
    if run.splits.train == run.splits.final:
        yield note("train_split and test_split are the same: scores will be on images that were trained on")
    yield from _hashes(run) if run.hashes else _sizes(run)
    yield from _classes(run)


def _hashes(run: PlannedRun) -> Findings:
    with console.counted("verifying", len(run.index.shards)) as counter:
        wrong = verify(run.data, run.index, counter.advance)
    for line in wrong:
        yield problem(f"{line}; pack it again, or fetch it again")
    if not wrong:
        yield ok(f"all {len(run.index.shards):,} shards have the SHA-256 of the index")


def _sizes(run: PlannedRun) -> Findings:
    """Check the sizes of local shards; of remote ones, read the first sample of each split."""
    records = [record for split in _splits(run) for record in run.index.of(split)]
    urls = shard_urls(run.data, records)
    local = [(Path(url), record) for url, record in zip(urls, records, strict=True) if not is_address(url)]
    wrong = [f"{record.name} {reason}" for path, record in local if (reason := size_problem(path, record))]
    if wrong:
        yield problem(f"{len(wrong)} of {len(local):,} local shards are damaged: {listed(wrong)}; {_VERIFY}")
    elif local:
        yield ok(f"{len(local):,} local shards have the sizes of the index; --hashes reads them too")
    for split in _splits(run):
        url = shard_urls(run.data, run.index.of(split)[:1])[0]
        if is_address(url):
            try:
                with open_url(url) as stream:
                    next(read_samples(url, stream), None)
                    yield ok(f"split {split}: {url} can be read")
            except (OSError, tarfile.TarError, BcosError) as reason:
                yield problem(f"split {split}: cannot read {url}: {first_line(reason)}")


def _splits(run: PlannedRun) -> list[str]:
    splits = run.splits
    return list(dict.fromkeys(split for split in (splits.train, splits.val, splits.final) if split is not None))


def _classes(run: PlannedRun) -> Findings:
    index, recipe = run.index, run.recipe
    if recipe.distillation is not None and recipe.distillation.kind == "embedding":
        return
    if index.multi_label and recipe.train.loss == "cross_entropy":
        yield problem("the images have several labels, which train.loss=cross_entropy cannot learn; use bce")
    try:
        counts = index.class_counts(run.splits.train)
    except BcosError as reason:
        yield note(str(reason))
        return
    if sum(count > 0 for count in counts) < 2:
        yield problem("all training images are of one class; a classifier needs at least two")
        return
    yield from _balance(index, counts, recipe.data.balanced or recipe.train.class_weights != "none")


def _balance(index: ShardIndex, counts: list[int], is_balanced: bool) -> Findings:
    empty = [index.classes[label] for label, count in enumerate(counts) if count == 0]
    if empty:
        yield note(f"{len(empty)} classes have no training images: {listed(empty)}")
    few, many = min(count for count in counts if count), max(counts)
    text = f"{len(counts):,} classes of {few:,} to {many:,} training images"
    if many >= UNBALANCED * few and not is_balanced:
        yield note(f"{text}; consider data.balanced=true or train.class_weights=balanced")
    else:
        yield ok(text)


def check_batches(run: PlannedRun) -> Findings:
    """Check that the batch can be split over the processes, and that there are enough shards for them."""
    recipe = run.recipe
    plan = plan_batches(recipe.train, run.processes)
    total = run.splits.trained_on(run.index)
    yield ok(
        f"{plan.effective} images a step: {plan.per_process} a process × {plan.world} processes "
        f"× {plan.accumulate} accumulated batches"
    )
    if recipe.train.max_batch == AUTO:
        yield note("train.max_batch=auto: how many of them a process takes at once is found out when the run starts")
    if recipe.train.compile == AUTO:
        yield note("train.compile=auto: whether the network is compiled is decided when the run starts; here it is not")
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
    epochs, warmup = recipe.train.epochs, recipe.schedule.warmup(steps)
    yield ok(f"{steps:,} steps an epoch, {steps * epochs:,} in {epochs} epochs, {warmup:,} of them warm-up")
    if recipe.schedule.warmup_epochs and not warmup:
        yield problem(
            f"a warm-up of {recipe.schedule.warmup_epochs:g} epochs is less than one step of {steps:,}: there is none; "
            "set -o schedule.warmup_epochs=0 -o schedule.warmup_steps=30, or give more images"
        )
    if (rest := total - steps * plan.effective) > LEFT_OUT * total:
        yield note(f"every epoch leaves out {rest:,} of {total:,} images, which do not fill a batch")
    yield from _loaders(run, plan, steps)


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


def check_pixels(run: PlannedRun) -> Findings:
    """Look at the first training images: in which range their values lie, and whether something can be seen in them."""
    data, index, split = run.recipe.data, run.index, run.splits.train
    spec = InputSpec(size=_SIDE, resize=None, channels=index.channels or 3, range=data.range)
    positions = range(min(index.of(split)[0].samples, SEEN))
    images = images_at(run.data, index, split, spec, positions, Reading.of(data))
    flat = sum(float(image.float().flatten(1).std(1).max()) < FLAT for image, _ in images.values())
    ends = "as the formats have it" if data.range is None else "{:g} and {:g}".format(*data.range)
    text = f"black and white of more than 8 bits: {ends}; {flat} of {len(images)} training images are nearly one colour"
    yield note(f"{text}: look at them, and at data.range") if flat > MANY_FLAT * len(images) else ok(text)
