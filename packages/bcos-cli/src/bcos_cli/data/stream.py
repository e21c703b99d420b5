"""Deterministic streams of samples out of shards, cut exactly for any number of processes and workers.

The shards of a split, one after another, are a sequence of samples whose lengths the index knows. Every
process, and every worker of it, gets a contiguous range of that sequence, from the middle of a shard if need
be: all samples once, equal numbers where training needs them, with any number of shards.
"""

import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import webdataset
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from bcos_cli.data.decoding import UNREADABLE
from bcos_cli.data.index import ShardIndex, shard_urls
from bcos_core.errors import BcosError

Transform = Callable[[bytes, random.Random], Tensor]
"""From encoded bytes to an 8-bit image (C, H, W); draws its randomness from the generator."""

_VERIFY = "check it with: bcos shards verify"

Sample = tuple[Tensor, int, int]
"""Image (C, H, W), label, position in the split."""


@dataclass(frozen=True)
class ShardSlice:
    """Samples ``start`` to ``stop`` of one shard, the first of which is at `position` in the split."""

    url: str
    start: int
    stop: int
    position: int


@dataclass(frozen=True)
class Shards:
    """The shards of one split, with the position of each one's first sample."""

    urls: list[str]
    lengths: list[int]

    @classmethod
    def of(cls, data: str, index: ShardIndex, split: str) -> "Shards":
        """Take the shards of `split` at the folder or URL `data`."""
        records = index.of(split)
        return cls(shard_urls(data, records), [record.samples for record in records])

    @property
    def total(self) -> int:
        """Count all samples."""
        return sum(self.lengths)

    def slices(self, begin: int, end: int, order: list[int] | None = None) -> Iterator[ShardSlice]:
        """Cut the range [begin, end) of the sequence of samples, the shards taken in `order`."""
        positions = [sum(self.lengths[:i]) for i in range(len(self.lengths))]
        seen = 0
        for shard in range(len(self.urls)) if order is None else order:
            start, stop = max(begin - seen, 0), min(end - seen, self.lengths[shard])
            if start < stop:
                yield ShardSlice(self.urls[shard], start, stop, positions[shard] + start)
            seen += self.lengths[shard]


def read_slice(part: ShardSlice) -> Iterator[dict[str, Any]]:
    """Samples of a slice, as WebDataset's dictionaries, each with its ``position``.

    Raises:
        BcosError: the shard cannot be opened, or ends before the index says.
    """
    try:
        stream = webdataset.gopen(part.url)
    except OSError as reason:
        raise BcosError(f"cannot open the shard {part.url!r}: {reason}; {_VERIFY}") from reason
    samples = group_by_keys(tar_file_expander([{"url": part.url, "stream": stream}]))
    count = 0
    try:
        for count, sample in enumerate(samples, start=1):
            if count > part.start:
                yield {**sample, "position": part.position + count - 1 - part.start}
            if count == part.stop:
                return
    except (tarfile.TarError, EOFError) as reason:
        raise BcosError(f"the shard {part.url!r} is damaged after {count} samples ({reason}); {_VERIFY}") from reason
    finally:
        stream.close()
    raise BcosError(
        f"the shard {part.url!r} ends after {count} samples, the index says at least {part.stop}; {_VERIFY}"
    )


class ShardStream(IterableDataset[Sample]):
    """Samples of one process.

    Args:
        shards: of the split.
        transform: from encoded bytes to an image.
        rank: of this process.
        world: number of processes.
        batch_size: samples a batch of this process; whole batches go to one worker, so that no worker has a
            part of one.
        seed: of the order and of the transforms.
        shuffle: samples in the shuffle buffer; 0 for the order of the shards.
        equal_multiple: give each process the same number of batches, a multiple of this, and leave out what
            remains (training). None: every sample comes once (evaluation).

    The order depends on (seed, epoch, rank, worker) alone, a transform on (seed, epoch, key). Set the epoch
    with :meth:`set_epoch` before iterating; workers that persist see it too.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        *,
        rank: int,
        world: int,
        batch_size: int,
        seed: int = 0,
        shuffle: int = 0,
        equal_multiple: int | None = None,
    ) -> None:
        self.shards = shards
        self.transform = transform
        self.rank = rank
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        total = shards.total
        if equal_multiple is not None:
            step = batch_size * equal_multiple  # samples of one process in an optimizer step
            per_rank = total // (world * step) * step
            if per_rank == 0:
                raise BcosError(
                    f"{total} samples are fewer than the {world * step} of one step (train.batch_size); "
                    "use a smaller batch"
                )
            self.begin, self.end = rank * per_rank, (rank + 1) * per_rank
        else:
            self.begin, self.end = total * rank // world, total * (rank + 1) // world
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def batches(self) -> int:
        """Number of batches of this process in an epoch."""
        return -(-len(self) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, in worker processes too."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Sample]:
        epoch = int(self._epoch)
        worker, workers = _worker()
        begin, end = self._worker_range(worker, workers)
        order = None
        if self.shuffle:
            order = list(range(len(self.shards.urls)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
        samples = (s for part in self.shards.slices(begin, end, order) for s in read_slice(part))
        if self.shuffle:
            rng = random.Random(f"{self.seed}/{epoch}/{self.rank}/{worker}")
            samples = webdataset.shuffle(self.shuffle, initial=self.shuffle, rng=rng)(samples)
        for sample in samples:
            yield self._decode(sample, epoch)

    def _worker_range(self, worker: int, workers: int) -> tuple[int, int]:
        """Whole batches for every worker; as many for each as the loader will ask of it in turn."""
        first = worker * (self.batches // workers) + min(worker, self.batches % workers)
        count = self.batches // workers + (worker < self.batches % workers)
        begin = self.begin + first * self.batch_size
        return begin, min(begin + count * self.batch_size, self.end)

    def _decode(self, sample: dict[str, Any], epoch: int) -> Sample:
        key = sample["__key__"]
        data = next((v for k, v in sample.items() if k not in ("cls", "position") and not k.startswith("__")), None)
        if data is None or "cls" not in sample:
            raise BcosError(
                f"the sample {key!r} of {sample['__url__']!r} needs an image and a .cls file, "
                f"has {list(sample)}; {_VERIFY}"
            )
        try:
            image = self.transform(data, random.Random(f"{self.seed}/{epoch}/{key}"))
        except UNREADABLE as reason:
            raise BcosError(f"the image {key!r} of {sample['__url__']} cannot be read: {reason}") from reason
        return image, int(sample["cls"]), sample["position"]


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
