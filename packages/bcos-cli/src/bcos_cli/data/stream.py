"""Streams of samples out of shards, read in the order that :mod:`bcos_cli.data.sample_order` plans."""

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import webdataset
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.remote import Open, open_url
from bcos_cli.data.sample_order import Drawing, SampleOrder
from bcos_cli.data.samples import VERIFY, Problem, image_and_label, image_name, parse_labels, read_slice
from bcos_cli.data.shards import ShardSlice
from bcos_cli.messages import tell
from bcos_core.errors import BcosError

Transform = Callable[[bytes, random.Random], Tensor]
"""From encoded bytes to an 8-bit image (C, H, W); draws its randomness from the generator."""


class Place(NamedTuple):
    """Where an image is; of a batch, positions (N,) and N names."""

    position: int
    """In the split."""
    name: str
    """In its shard."""


Sample = tuple[Tensor, int | Tensor, Any]
"""Image (C, H, W), label (or (K,) of zeros and ones, where there are several), position in the split or
:class:`Place`."""

_TOLD = 3
"""Problems that a loader process reports one by one; it only counts the rest."""


@dataclass(frozen=True)
class Labelling:
    """What labels mean."""

    num_classes: int
    multi_label: bool = False
    numbers: tuple[int, ...] | None = None
    """Class that each label stands for; None for those of the same numbers."""

    @classmethod
    def of(cls, index: ShardIndex) -> "Labelling":
        """Return what the labels of these shards mean."""
        return cls(len(index.classes), index.multi_label, index.numbers)

    def read(self, text: bytes) -> int | Tensor:
        """Return the label of a sample from its ``.cls`` file."""
        numbers = self.numbers or range(self.num_classes)
        labels = [numbers[k] for k in parse_labels(text, len(numbers), self.multi_label)]
        if min(labels, default=0) < 0:
            raise BcosError(
                f"a .cls file has the class index {text[:20]!r}, of which the index counts no image; count them with: "
                "bcos shards index"
            )
        if not self.multi_label:
            return labels[0]
        several = torch.zeros(self.num_classes)
        several[labels] = 1
        return several


class ShardStream(IterableDataset[Sample]):
    """Samples of one process.

    Args:
        skip: leave out what cannot be read, count it and report it; otherwise it is an error.
        named: give a :class:`Place` instead of the position.

    The order depends on (seed, epoch, rank, worker) alone, a transform on (seed, epoch, key). Set the epoch
    with :meth:`set_epoch` before iterating; workers that persist see it too. A stream that begins at a later batch
    gives what would have come from there on.
    """

    def __init__(
        self,
        order: SampleOrder,
        transform: Transform,
        labelling: Labelling,
        *,
        open_shard: Open = open_url,
        skip: bool = False,
        named: bool = False,
    ) -> None:
        self.order = order
        self.named = named
        self.transform = transform
        self.labelling = labelling
        self.open_shard = open_shard
        self.skip = skip
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, first batch
        self._skipped = torch.zeros(256, dtype=torch.int64).share_memory_()  # one place a worker: no two write to one

    def __len__(self) -> int:
        return self.order.length

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and its first batch, in worker processes too."""
        self._position[0] = epoch
        self._position[1] = first_batch
        self._skipped.zero_()

    @property
    def skipped(self) -> int:
        """Number of samples that could not be read and were left out, in the iteration that has ended."""
        return int(self._skipped.sum())

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        return self.samples(0, 1) if info is None else self.samples(info.id, info.num_workers)

    def samples(self, process: int, workers: int) -> Iterator[Sample]:
        """Yield the samples of the loader process numbered `process`, of `workers` in all."""
        epoch, first_batch = self._position.tolist()
        # A loader takes batches from its processes in turn and begins with the first. So that the batches of a resumed
        # epoch come in the order of a whole one, that process goes on as the worker whose turn it is.
        worker = (process + first_batch) % workers
        done = len(range(worker, first_batch, workers))
        skips = _Skips(self._skipped, process, patience=2 * max(len(self), 1))
        if self.order.drawing is not None:
            yield from self._training(self.order.drawing, epoch, worker, workers, done, skips)
            return
        for part in self.order.evaluation(worker, workers, done):
            yield from self._decoded(self._slice(part, skips), 0, skips)

    def at(self, positions: Collection[int]) -> Iterator[Sample]:
        """Yield the samples at these positions of the split, in its order; others are not decoded.

        Raises:
            BcosError: there is no such position, or, unless such samples are left out, one cannot be read.
        """
        chosen, total = set(positions), sum(self.order.shards.lengths)
        if odd := [position for position in chosen if not 0 <= position < total]:
            raise BcosError(f"the split has positions from 0 to {total - 1}, got {min(odd)}")
        skips = _Skips(self._skipped, 0, patience=2 * total)
        for part in self.order.shards.around(chosen):
            samples = (sample for sample in self._slice(part, skips) if sample["position"] in chosen)
            yield from self._decoded(samples, 0, skips)

    def _training(
        self, drawing: Drawing, epoch: int, worker: int, workers: int, done: int, skips: "_Skips"
    ) -> Iterator[Sample]:
        count = len(self.order.worker_batches(worker, workers)) * self.order.batch_size
        first = done * self.order.batch_size
        samples = self._drawn(drawing, epoch, worker, workers, skips)
        # A resumed epoch reads its samples from the beginning: what the shuffle buffer gives depends on all that went
        # through it. They need not be decoded, unless those that cannot be are replaced by the ones that follow.
        if self.skip:
            yield from itertools.islice(self._decoded(samples, epoch, skips), first, count)
        else:
            yield from self._decoded(itertools.islice(samples, first, count), epoch, skips)
        is_last = self.order.rank == self.order.world - 1 and worker == workers - 1
        if is_last and epoch == drawing.repeats - 1:
            for part in self.order.left_over(drawing):  # its shard may be longer than the index says
                for _ in self._slice(part, lambda *_: None):
                    pass

    def _drawn(
        self, drawing: Drawing, epoch: int, worker: int, workers: int, skips: "_Skips"
    ) -> Iterator[dict[str, Any]]:
        """Yield samples of a worker without end, each with the ``version`` that tells its augmentations apart."""
        for turn in self.order.training(drawing, epoch, worker, workers):
            read = itertools.chain.from_iterable(self._slice(part, skips) for part in turn.slices)
            samples = read if drawing.class_counts is None else self._balanced(read, drawing, turn.copies_seed)
            if drawing.shuffle:
                # The buffer is filled before it gives anything, and each worker draws from a generator of its own: the
                # order depends neither on how quickly samples arrive nor on how many other workers there are.
                rng = random.Random(turn.shuffle_seed)
                samples = webdataset.shuffle(drawing.shuffle, initial=drawing.shuffle, rng=rng)(samples)
            for sample in samples:
                for repeat in range(drawing.repeats):
                    version = f"/{turn.number}.{sample.get('copy', 0)}.{repeat}"
                    yield {**sample, "version": "" if version == "/0.0.0" else version}

    def _balanced(self, samples: Iterator[dict[str, Any]], drawing: Drawing, seed: str) -> Iterator[dict[str, Any]]:
        for sample in samples:
            try:
                label = int(self.labelling.read(sample.get("cls", b"")))
            except BcosError:
                label = 0  # decoding will raise or skip it
            for copy in range(drawing.copies(label, f"{seed}/{sample['__key__']}/times")):
                yield {**sample, "copy": copy}

    def _slice(self, part: ShardSlice, skips: Problem) -> Iterator[dict[str, Any]]:
        return read_slice(part, open_shard=self.open_shard, on_problem=skips if self.skip else None)

    def _decoded(self, samples: Iterator[dict[str, Any]], epoch: int, skips: "_Skips") -> Iterator[Sample]:
        """Decode samples; those that cannot be decoded are reported and left out, if the stream skips them."""
        for sample in samples:
            try:
                decoded = self._decode(sample, epoch)
            except BcosError as problem:
                if not self.skip:
                    raise
                skips(1, str(problem))
                continue
            skips.in_a_row = 0
            yield decoded

    def _decode(self, sample: dict[str, Any], epoch: int) -> Sample:
        key, url = sample["__key__"], sample["__url__"]
        try:
            data, text = image_and_label(sample)
            label = self.labelling.read(text)
        except BcosError as problem:
            raise BcosError(f"the sample {key!r} of {url!r}: {problem}; {VERIFY}") from problem
        rng = random.Random(f"{self.order.seed}/{epoch}/{key}{sample.get('version', '')}")
        try:
            image = self.transform(data, rng)
        except UnreadableImageError as reason:
            raise BcosError(f"the image {key!r} of {url}: {reason}") from reason
        position = sample["position"]
        return image, label, Place(position, image_name(sample)) if self.named else position


class _Skips:
    """Counts samples that are left out, where the main process sees it, and reports the first ones."""

    def __init__(self, counts: Tensor, process: int, patience: int) -> None:
        self._counts = counts
        self._process = process % len(counts)
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
