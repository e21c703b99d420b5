"""The shards of a split as one sequence of samples, or a part of it: positions and ranges. Reads no shard."""

import functools
import heapq
import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bcos_cli.data.index import ShardIndex, shard_urls
from bcos_core.errors import BcosError

LARGEST = 1_000_000
"""Samples of a shard of which some are held out: an index may claim any number."""

Part = Literal["held out", "rest"]
"""Part of a split of which a share is held out."""


@dataclass(frozen=True)
class HoldOut:
    """A seeded share of a split's samples.

    Every shard gives its part, drawn from its positions. They follow from the lengths of the shards alone: the same in
    every process, on every call.
    """

    share: float
    seed: int

    def counts(self, lengths: Sequence[int]) -> list[int]:
        """Return how many samples of each shard are held out; in all the share, rounded, but at least one.

        Raises:
            BcosError: a shard has more samples than can be drawn from in reasonable time.
        """
        if max(lengths, default=0) > LARGEST:
            raise BcosError(
                f"images can be held out of shards of at most {LARGEST:,} samples, one has {max(lengths):,}; make "
                "smaller shards, or a split val"
            )
        total = sum(lengths)
        count = max(round(self.share * total), 1)
        ends = [0, *(end * count // max(total, 1) for end in itertools.accumulate(lengths))]
        return [end - start for start, end in itertools.pairwise(ends)]

    def positions(self, shard: int, length: int, count: int) -> frozenset[int]:
        """Draw `count` positions in the shard numbered `shard`, which has `length` samples."""
        draw = random.Random(f"{self.seed}/{shard}/held out").random  # the same in every version of Python
        return frozenset(k for _, k in heapq.nsmallest(count, ((draw(), k) for k in range(length))))


@dataclass(frozen=True)
class ShardSlice:
    """The samples from ``start`` to ``stop`` of one shard, the first of which is at `position` in the split."""

    url: str
    start: int
    stop: int
    position: int
    length: int
    """Samples of the whole shard, as its index says."""
    left_out: frozenset[int] = frozenset()
    """Positions in the shard that do not belong to the slice."""

    @property
    def samples(self) -> int:
        """Number of samples that belong to the slice."""
        return self.stop - self.start - sum(self.start <= k < self.stop for k in self.left_out)


@dataclass(frozen=True)
class Shards:
    """The shards of one split as a sequence of samples: all of them, or one of two parts."""

    urls: list[str]
    lengths: list[int]
    """Samples of each."""
    hold_out: HoldOut | None = None
    """Share that is held out; None for all samples."""
    part: Part = "rest"
    """Which of the two parts the sequence is."""

    @classmethod
    def of(
        cls, data: str, index: ShardIndex, split: str, hold_out: HoldOut | None = None, part: Part = "rest"
    ) -> "Shards":
        """Return the shards of `split` at the folder or URL `data`, or a part of their samples."""
        records = index.of(split)
        return cls(shard_urls(data, records), [record.samples for record in records], hold_out, part)

    @functools.cached_property
    def total(self) -> int:
        """Number of samples of the sequence."""
        return sum(self._counts)

    @functools.cached_property
    def _held_out(self) -> list[int]:
        """Numbers of samples that are held out of each shard."""
        return [0] * len(self.lengths) if self.hold_out is None else self.hold_out.counts(self.lengths)

    @functools.cached_property
    def _counts(self) -> list[int]:
        """Numbers of samples of the sequence in each shard."""
        if self.part == "held out":
            return self._held_out
        return [n - held_out for n, held_out in zip(self.lengths, self._held_out, strict=True)]

    def _left_out(self, shard: int) -> frozenset[int]:
        """Positions in a shard that do not belong to the sequence."""
        if self.hold_out is None:
            return frozenset()
        length = self.lengths[shard]
        held_out = self.hold_out.positions(shard, length, self._held_out[shard])
        return held_out if self.part == "rest" else frozenset(range(length)) - held_out

    def slices(self, begin: int, end: int, order: list[int] | None = None) -> Iterator[ShardSlice]:
        """Cut the range [begin, end) of the sequence into slices, the shards taken in `order`."""
        positions = [0, *itertools.accumulate(self.lengths)]
        before = 0
        for shard in range(len(self.urls)) if order is None else order:
            start, stop = max(begin - before, 0), min(end - before, self._counts[shard])
            if start < stop:
                length, left_out = self.lengths[shard], self._left_out(shard)
                if left_out:
                    # From places in the sequence to places in the shard; training reads a shard to its end, past what
                    # is held out there, and so notices one that is longer than its index says.
                    own = [k for k in range(length) if k not in left_out]
                    to_its_end = self.part == "rest" and stop == len(own)
                    start, stop = own[start], length if to_its_end else own[stop - 1] + 1
                yield ShardSlice(self.urls[shard], start, stop, positions[shard] + start, length, left_out)
            before += self._counts[shard]

    def around(self, positions: Collection[int]) -> Iterator[ShardSlice]:
        """Yield a slice of each shard that has some of these positions, from the first to the last of them."""
        for url, length, end in zip(self.urls, self.lengths, itertools.accumulate(self.lengths), strict=True):
            start = end - length
            if here := [p for p in positions if start <= p < end]:
                yield ShardSlice(url, min(here) - start, max(here) - start + 1, min(here), length)
