"""Deterministic streams of samples out of shards, cut exactly for any number of processes and workers.

The shards of a split, one after another, are a sequence of samples whose lengths the index knows. Every
process, and every worker of it, gets a contiguous range of that sequence, from the middle of a shard if need
be: all samples once, equal numbers where training needs them, with any number of shards.
"""

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import webdataset
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.labels import parse_labels
from bcos_cli.data.opening import open_url
from bcos_cli.data.samples import image_and_label
from bcos_cli.data.shards import VERIFY, Open, Problem, Shards, ShardSlice, read_slice
from bcos_cli.messages import tell
from bcos_core.errors import BcosError

Transform = Callable[[bytes, random.Random], Tensor]
"""From encoded bytes to an 8-bit image (C, H, W); draws its randomness from the generator."""

Sample = tuple[Tensor, int | Tensor, int]
"""Image (C, H, W), label (or (K,) of zeros and ones, where there are several), position in the split."""

_TOLD = 3
"""Problems that a loader process tells one by one; the rest it counts."""


@dataclass(frozen=True)
class Labelling:
    """What labels mean."""

    num_classes: int
    multi_label: bool = False

    def read(self, text: bytes) -> int | Tensor:
        """Label of a sample from its ``.cls`` file."""
        labels = parse_labels(text, self.num_classes, self.multi_label)
        if not self.multi_label:
            return labels[0]
        several = torch.zeros(self.num_classes)
        several[labels] = 1
        return several


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


class ShardStream(IterableDataset[Sample]):
    """Samples of one process.

    Args:
        shards: of the split.
        transform: from encoded bytes to an image.
        labelling: what labels mean.
        rank: of this process.
        world: number of processes.
        batch_size: samples a batch of this process; whole batches go to one worker, so that no worker has a
            part of one.
        seed: of the order and of the transforms.
        drawing: for training: every process gets the same number of batches, and what remains is left out.
            None for evaluation: every sample comes once.
        open_shard: opens a path or URL.
        skip: leave out what cannot be read, count it and tell it; else it is an error.

    The order depends on (seed, epoch, rank, worker) alone, a transform on (seed, epoch, key). Set the epoch
    with :meth:`set_epoch` before iterating; workers that persist see it too. A stream that begins at a later batch
    gives what would have come from there on.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        labelling: Labelling,
        *,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
        seed: int = 0,
        drawing: Drawing | None = None,
        open_shard: Open = open_url,
        skip: bool = False,
    ) -> None:
        self.shards = shards
        self.transform = transform
        self.labelling = labelling
        self.rank = rank
        self.world = world
        self.batch_size = batch_size
        self.seed = seed
        self.drawing = drawing
        self.open_shard = open_shard
        self.skip = skip
        total = shards.total
        if drawing is not None:
            if batch_size % drawing.repeats:
                raise BcosError(
                    f"data.repeats={drawing.repeats} must divide the {batch_size} images of a process's batch; "
                    "change one of them"
                )
            step = batch_size * drawing.multiple  # samples of one process in an optimizer step
            self.length = total // (world * step) * step
            if self.length == 0:
                raise BcosError(
                    f"{total} samples are fewer than the {world * step} of one step (train.batch_size); "
                    "use a smaller batch"
                )
        else:
            self.length = total * (rank + 1) // world - total * rank // world
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, first batch
        self._skipped = torch.zeros(256, dtype=torch.int64).share_memory_()  # one place a worker: no two write to one

    def __len__(self) -> int:
        return self.length

    @property
    def batches(self) -> int:
        """Number of batches of this process in an epoch."""
        return -(-self.length // self.batch_size)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and its first batch, in worker processes too."""
        self._position[0] = epoch
        self._position[1] = first_batch
        self._skipped.zero_()

    @property
    def skipped(self) -> int:
        """Samples that could not be read and were left out, in the iteration that has ended."""
        return int(self._skipped.sum())

    def __iter__(self) -> Iterator[Sample]:
        epoch, first_batch = self._position.tolist()
        process, workers = _worker()
        # A loader takes batches from its processes in turn and begins with the first: that one goes on as the worker
        # whose turn it is.
        worker = (process + first_batch) % workers
        done = len(range(worker, first_batch, workers))
        told = _Told(self._skipped, process, self.rank, patience=2 * max(self.length, 1))
        if self.drawing is None:
            yield from self._evaluation(worker, workers, done * self.batch_size, told)
        else:
            yield from self._training(epoch, worker, workers, done * self.batch_size, told)

    def at(self, positions: Collection[int]) -> Iterator[Sample]:
        """Samples at these positions of the split alone, in its order; others are not decoded.

        Raises:
            BcosError: one of them is not there, or, unless such are left out, cannot be read.
        """
        wanted, total = set(positions), sum(self.shards.lengths)
        if odd := [position for position in wanted if not 0 <= position < total]:
            raise BcosError(f"the split has positions from 0 to {total - 1}, got {min(odd)}")
        told = _Told(self._skipped, 0, self.rank, patience=2 * total)
        for part in self.shards.around(wanted):
            for sample in self._slice(part, told):
                decoded = self._decoded(sample, 0, told) if sample["position"] in wanted else None
                if decoded is not None:
                    yield decoded

    def _evaluation(self, worker: int, workers: int, done: int, told: "_Told") -> Iterator[Sample]:
        begin = self.shards.total * self.rank // self.world
        first, last = self._worker_batches(worker, workers)
        end = begin + min(last * self.batch_size, self.length)
        for sample in self._read(begin + first * self.batch_size + done, end, None, told):
            decoded = self._decoded(sample, 0, told)
            if decoded is not None:
                yield decoded

    def _training(self, epoch: int, worker: int, workers: int, done: int, told: "_Told") -> Iterator[Sample]:
        assert self.drawing is not None
        first, last = self._worker_batches(worker, workers)
        wanted = (last - first) * self.batch_size
        samples = self._drawn(epoch, worker, first, last)
        if not self.skip:  # what is not decoded cannot change what follows
            samples = itertools.islice(samples, done, wanted)
            yield from (self._decode(sample, epoch) for sample in samples)
        else:
            drawn = self._drawn(epoch, worker, first, last, told)
            decoded = (d for s in drawn if (d := self._decoded(s, epoch, told)))
            yield from itertools.islice(decoded, done, wanted)
        if (self.rank, worker) == (self.world - 1, workers - 1):
            self._read_what_is_left(epoch)

    def _read_what_is_left(self, epoch: int) -> None:
        """Read the samples that no process takes in the first cycle: a shard may be longer than its index says."""
        assert self.drawing is not None
        repeats = self.drawing.repeats
        if epoch != repeats - 1:
            return
        order, turned = self._order(0)
        taken = self.length // repeats * repeats * self.world
        for _ in self._read(taken + turned, self.shards.total + turned, order, lambda *_: None):
            pass

    def _drawn(
        self, epoch: int, worker: int, first: int, last: int, told: "_Told | None" = None
    ) -> Iterator[dict[str, Any]]:
        """Samples of a worker for batches `first` to `last` of this process; more passes follow for what is missing."""
        assert self.drawing is not None
        repeats, shuffle = self.drawing.repeats, self.drawing.shuffle
        cycle, window = divmod(epoch, repeats)  # with repeats, an epoch sees one part of the samples
        length = self.length // repeats
        start = (window * self.world + self.rank) * length
        whole = start, start + length
        begin, end = (start + batch * self.batch_size // repeats for batch in (first, last))
        order, turned = self._order(cycle)
        for turn in itertools.count():
            suffix = f"/{turn}" if turn else ""
            rng = random.Random(f"{self.seed}/{epoch}/{self.rank}/{worker}{suffix}")
            if turn:  # its own share was not enough: that of the process is larger
                begin, end = whole
            samples = self._balanced(self._read(begin + turned, end + turned, order, told), f"{epoch}{suffix}")
            if shuffle:
                samples = webdataset.shuffle(shuffle, initial=shuffle, rng=rng)(samples)
            for sample in samples:
                for repeat in range(repeats):
                    version = [f"{part}" for part in (turn, sample.get("copy", 0), repeat)]
                    yield {**sample, "version": "" if set(version) == {"0"} else "/" + ".".join(version)}

    def _order(self, cycle: int) -> tuple[list[int] | None, int]:
        """Order of the shards, and the position in it at which a cycle begins."""
        if self.drawing is None or not self.drawing.shuffle:
            return None, 0
        order = list(range(len(self.shards.urls)))
        chance = random.Random(f"{self.seed}/{cycle}")
        chance.shuffle(order)
        return order, chance.randrange(self.shards.total)  # other images remain each time

    def _balanced(self, samples: Iterator[dict[str, Any]], turn: str) -> Iterator[dict[str, Any]]:
        """Give each sample as often as its class is rarer than the mean, to a whole number by chance."""
        assert self.drawing is not None
        counts = self.drawing.class_counts
        if counts is None:
            yield from samples
            return
        mean = sum(counts) / sum(count > 0 for count in counts)
        for sample in samples:
            times = mean / counts[self._class(sample)] if counts[self._class(sample)] else 1.0
            whole = int(times)
            chance = random.Random(f"{self.seed}/{turn}/{sample['__key__']}/times").random()
            for copy in range(whole + (chance < times - whole)):
                yield {**sample, "copy": copy}

    def _class(self, sample: dict[str, Any]) -> int:
        try:
            label = self.labelling.read(sample.get("cls", b""))
        except BcosError:
            return 0  # decoding will tell
        assert isinstance(label, int)
        return label

    def _read(self, begin: int, end: int, order: list[int] | None, told: Problem | None) -> Iterator[dict[str, Any]]:
        """Samples from `begin` to `end`, after the last of which comes the first again."""
        total = self.shards.total
        for first in range(0, end, total) if end > begin else ():
            for part in self.shards.slices(begin - first, end - first, order):
                yield from self._slice(part, told)

    def _slice(self, part: ShardSlice, told: Problem | None) -> Iterator[dict[str, Any]]:
        return read_slice(part, open_shard=self.open_shard, on_problem=told if self.skip else None)

    def _worker_batches(self, worker: int, workers: int) -> tuple[int, int]:
        """Whole batches for every worker; as many for each as the loader will ask of it in turn."""
        share, rest = divmod(self.batches, workers)
        first = worker * share + min(worker, rest)
        return first, first + share + (worker < rest)

    def _decoded(self, sample: dict[str, Any], epoch: int, told: "_Told") -> Sample | None:
        """Decode a sample; one that cannot be is told of and left out, where that is wanted."""
        if not self.skip:
            return self._decode(sample, epoch)
        try:
            decoded = self._decode(sample, epoch)
        except BcosError as problem:
            told(1, str(problem))
            return None
        told.in_a_row = 0
        return decoded

    def _decode(self, sample: dict[str, Any], epoch: int) -> Sample:
        key, url = sample["__key__"], sample["__url__"]
        try:
            data, text = image_and_label(sample)
            label = self.labelling.read(text)
        except BcosError as problem:
            raise BcosError(f"the sample {key!r} of {url!r}: {problem}; {VERIFY}") from problem
        try:
            image = self.transform(data, random.Random(f"{self.seed}/{epoch}/{key}{sample.get('version', '')}"))
        except UnreadableImageError as reason:
            raise BcosError(f"the image {key!r} of {url}: {reason}") from reason
        return image, label, sample["position"]


class _Told:
    """Counts samples that are left out, where the main process sees it, and tells of the first ones."""

    def __init__(self, counts: Tensor, process: int, rank: int, patience: int) -> None:
        self._counts = counts
        self._process = process % len(counts)
        self._rank = rank
        self._patience = patience
        self._told = 0
        self.in_a_row = 0

    def __call__(self, samples: int, problem: str) -> None:
        self._counts[self._process] += samples
        self.in_a_row += samples
        if self.in_a_row > self._patience:
            raise BcosError(f"none of {self.in_a_row:,} samples could be read, the last because {problem}")
        self._told += 1
        if self._told <= _TOLD:
            count = "" if samples == 1 else f" {samples}"
            tell(f"left out{count}: {problem}")


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
