"""The order of samples: from (seed, epoch, rank, worker) to slices of shards. Imports no torch and reads no shard.

The shards of a split, one after another, are a sequence of samples whose lengths the index knows. Every process, and
every worker of it, gets a contiguous range of that sequence, from the middle of a shard if need be: all samples once,
equal numbers where training needs them, with any number of shards.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bcos_cli.data.shards import Shards, ShardSlice
from bcos_core.errors import BcosError


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn for training."""

    shuffle: int = 0
    """Samples in the shuffle buffer; 0 for the order of the shards."""
    multiple: int = 1
    """Each process gets a number of batches that is a multiple of this."""
    repeats: int = 1
    """Augmented versions of each sample in a batch."""
    class_counts: tuple[int, ...] | None = None
    """Samples of each class; with it, every class is drawn equally often."""

    def copies(self, label: int, chance: str) -> int:
        """Return how often a sample is drawn: as often as its class is rarer than the mean, rounded by `chance`."""
        if self.class_counts is None:
            return 1
        mean = sum(self.class_counts) / sum(count > 0 for count in self.class_counts)
        times = mean / self.class_counts[label] if self.class_counts[label] else 1.0
        return int(times) + (random.Random(chance).random() < times - int(times))


@dataclass(frozen=True)
class Pass:
    """One pass of a worker over samples; a training epoch takes another one if some could not be read."""

    slices: Iterator[ShardSlice]
    number: int
    copies_seed: str
    """Seed of the copies of rare samples; the same for all workers."""
    shuffle_seed: str


@dataclass(frozen=True)
class SampleOrder:
    """Which samples one process takes in an epoch, and in which order.

    Raises:
        BcosError: the repeats do not divide a batch, or there are fewer samples than one step takes.
    """

    shards: Shards
    seed: int = 0
    rank: int = 0
    world: int = 1
    batch_size: int = 1
    """Samples in a batch of this process; workers get whole batches."""
    drawing: Drawing | None = None
    """How training draws samples: every process gets the same number of batches, and what remains is left out. None for
    evaluation, in which every sample comes once."""
    most: int | None = None
    """Samples of this process in evaluation, the first of its share; None for all of them."""

    def __post_init__(self) -> None:
        if self.drawing is None:
            return
        if self.batch_size % self.drawing.repeats:
            raise BcosError(
                f"data.repeats={self.drawing.repeats} must divide the {self.batch_size} images of a process's batch; "
                "change one of them"
            )
        if self.length == 0:
            raise BcosError(
                f"{self.shards.total} samples are fewer than the {self.world * self.batch_size * self.drawing.multiple}"
                " of one step (train.batch_size); use a smaller batch"
            )

    @cached_property
    def length(self) -> int:
        """Number of samples of this process in an epoch."""
        total = self.shards.total
        if self.drawing is None:
            share = self._begin(self.rank + 1) - self._begin(self.rank)
            return share if self.most is None else min(share, self.most)
        step = self.batch_size * self.drawing.multiple  # samples of one process in an optimizer step
        return total // (self.world * step) * step

    @property
    def batches(self) -> int:
        """Number of batches of this process in an epoch."""
        return -(-self.length // self.batch_size)

    def worker_batches(self, worker: int, workers: int) -> range:
        """Return the numbers of a worker's batches: as many as the loader, which takes them in turn, will ask for."""
        share, rest = divmod(self.batches, workers)
        first = worker * share + min(worker, rest)
        return range(first, first + share + (worker < rest))

    def evaluation(self, worker: int, workers: int, done: int = 0) -> Iterator[ShardSlice]:
        """Yield the slices of a worker after its first `done` batches; those of all workers have each sample once."""
        batches = self.worker_batches(worker, workers)
        # The share of a process begins and ends at a sample, not at a shard or a batch: nothing is left over or comes
        # twice, and its last batch alone may be a smaller one.
        first, last = (batches.start + done) * self.batch_size, min(batches.stop * self.batch_size, self.length)
        return self._slices(self._begin(self.rank) + first, self._begin(self.rank) + last)

    def training(self, drawing: Drawing, epoch: int, worker: int, workers: int) -> Iterator[Pass]:
        """Yield passes of a worker without end: over its own share of the epoch, then over that of its whole process.

        The second pass and later ones replace samples that could not be read.
        """
        # With repeats an epoch sees one window of the samples, so that as many epochs, a cycle, see all of them in the
        # same order of shards. Another cycle begins elsewhere in another order: other samples are left over.
        cycle, window = divmod(epoch, drawing.repeats)
        length = self.length // drawing.repeats
        start = (window * self.world + self.rank) * length
        batches = self.worker_batches(worker, workers)
        own = tuple(start + n * self.batch_size // drawing.repeats for n in (batches.start, batches.stop))
        order, turned = self._shard_order(cycle)
        for number in itertools.count():
            begin, end = (start, start + length) if number else own
            suffix = f"/{number}" if number else ""
            yield Pass(
                self._slices(begin + turned, end + turned, order),
                number,
                copies_seed=f"{self.seed}/{epoch}{suffix}",
                shuffle_seed=f"{self.seed}/{epoch}/{self.rank}/{worker}{suffix}",
            )

    def left_over(self, drawing: Drawing) -> Iterator[ShardSlice]:
        """Yield slices of the samples that no process takes in the first cycle."""
        order, turned = self._shard_order(0)
        taken = self.length // drawing.repeats * drawing.repeats * self.world
        return self._slices(taken + turned, self.shards.total + turned, order)

    def _begin(self, rank: int) -> int:
        return self.shards.total * rank // self.world

    def _shard_order(self, cycle: int) -> tuple[list[int] | None, int]:
        """Return the order of the shards, and the place in it at which a cycle begins."""
        if self.drawing is None or not self.drawing.shuffle:
            return None, 0
        order = list(range(len(self.shards.urls)))
        chance = random.Random(f"{self.seed}/{cycle}")
        chance.shuffle(order)
        return order, chance.randrange(self.shards.total)

    def _slices(self, begin: int, end: int, order: list[int] | None = None) -> Iterator[ShardSlice]:
        """Yield slices from `begin` to `end`; after the last sample comes the first again."""
        for first in range(0, end, self.shards.total) if end > begin else ():
            yield from self.shards.slices(begin - first, end - first, order)
