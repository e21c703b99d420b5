"""The shards of a split as one sequence of samples, and reading a range of it."""

import contextlib
import functools
import itertools
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any

from bcos_cli.data.holdout import HoldOut, Part
from bcos_cli.data.index import ShardIndex, shard_urls
from bcos_cli.data.opening import open_url
from bcos_cli.data.samples import read_samples
from bcos_core.errors import BcosError

Open = Callable[[str], IO[bytes]]
"""Opens a path or URL."""
Problem = Callable[[int, str], None]
"""Is told how many samples are left out, and why."""

VERIFY = "check it with: bcos shards verify"


@dataclass(frozen=True)
class ShardSlice:
    """Samples ``start`` to ``stop`` of one shard, the first of which is at `position` in the split."""

    url: str
    start: int
    stop: int
    position: int
    length: int
    """Samples of the whole shard, as its index says."""
    left_out: frozenset[int] = frozenset()
    """Those of the shard that do not belong to it."""

    @property
    def samples(self) -> int:
        """Count those that belong to it."""
        return self.stop - self.start - sum(self.start <= k < self.stop for k in self.left_out)


@dataclass(frozen=True)
class Shards:
    """The shards of one split, with the position of each one's first sample."""

    urls: list[str]
    lengths: list[int]
    """Samples of each."""
    hold_out: HoldOut | None = None
    """Share that is held out; None where the sequence has all samples."""
    part: Part = "rest"
    """Which of the two parts the sequence has."""

    @classmethod
    def of(
        cls, data: str, index: ShardIndex, split: str, hold_out: HoldOut | None = None, part: Part = "rest"
    ) -> "Shards":
        """Take the shards of `split` at the folder or URL `data`, or a part of their samples."""
        records = index.of(split)
        return cls(shard_urls(data, records), [record.samples for record in records], hold_out, part)

    @functools.cached_property
    def total(self) -> int:
        """Count all samples of the sequence."""
        return sum(self._counts)

    @functools.cached_property
    def _held_out(self) -> list[int]:
        """Samples of each shard that are held out."""
        return [0] * len(self.lengths) if self.hold_out is None else self.hold_out.counts(self.lengths)

    @functools.cached_property
    def _counts(self) -> list[int]:
        """Samples of the sequence in each shard."""
        if self.part == "held out":
            return self._held_out
        return [n - held_out for n, held_out in zip(self.lengths, self._held_out, strict=True)]

    def _left_out(self, shard: int) -> frozenset[int]:
        """Positions in a shard that are not of the sequence."""
        if self.hold_out is None:
            return frozenset()
        length = self.lengths[shard]
        held_out = self.hold_out.positions(shard, length, self._held_out[shard])
        return held_out if self.part == "rest" else frozenset(range(length)) - held_out

    def slices(self, begin: int, end: int, order: list[int] | None = None) -> Iterator[ShardSlice]:
        """Cut the range [begin, end) of the sequence of samples, the shards taken in `order`."""
        positions = [0, *itertools.accumulate(self.lengths)]
        seen = 0
        for shard in range(len(self.urls)) if order is None else order:
            start, stop = max(begin - seen, 0), min(end - seen, self._counts[shard])
            if start < stop:
                length, left_out = self.lengths[shard], self._left_out(shard)
                if left_out:  # from places in the sequence to places in the shard
                    own = [k for k in range(length) if k not in left_out]
                    to_its_end = self.part == "rest" and stop == len(own)  # training looks whether it ends as it should
                    start, stop = own[start], length if to_its_end else own[stop - 1] + 1
                yield ShardSlice(self.urls[shard], start, stop, positions[shard] + start, length, left_out)
            seen += self._counts[shard]

    def around(self, positions: Collection[int]) -> Iterator[ShardSlice]:
        """For each shard that has some of these positions of the split, from the first to the last of them."""
        ends = list(itertools.accumulate(self.lengths))
        for url, length, end in zip(self.urls, self.lengths, ends, strict=True):
            start = end - length
            here = [p for p in positions if start <= p < end]
            if here:
                first, last = min(here), max(here)
                yield ShardSlice(url, first - start, last - start + 1, first, length)


def read_slice(
    part: ShardSlice, *, open_shard: Open = open_url, on_problem: Problem | None = None
) -> Iterator[dict[str, Any]]:
    """Samples of a slice, as WebDataset's dictionaries, each with its ``position``.

    Args:
        part: of a shard.
        open_shard: opens its URL.
        on_problem: is told of samples that cannot be reached, which are then left out; None to raise.

    Raises:
        BcosError: the shard has more samples than the index says; or it cannot be opened, or ends before, and there is
            no `on_problem`.
    """
    given = 0
    is_longer = False
    try:
        for sample, is_longer in _samples(part, open_shard):
            if is_longer:
                break
            given += 1
            yield sample
    except BcosError as problem:
        if on_problem is None:
            raise
        on_problem(part.samples - given, str(problem))
    if is_longer:  # nothing that could be left out: scores of a part would pass for those of all
        raise BcosError(f"the shard {part.url!r} has more samples than the {part.length} that the index says; {VERIFY}")


def _samples(part: ShardSlice, open_shard: Open) -> Iterator[tuple[dict[str, Any], bool]]:
    """Samples of a slice; with its last one, whether the shard goes on although it is the last of the shard too."""
    try:
        stream = open_shard(part.url)
    except OSError as reason:
        raise BcosError(f"cannot open the shard {part.url!r}: {reason}; {VERIFY}") from reason
    samples = read_samples(part.url, stream)
    count = 0
    try:
        for count, sample in enumerate(samples, start=1):
            is_longer = count == part.length and next(samples, None) is not None
            if is_longer or (count > part.start and count - 1 not in part.left_out):
                yield {**sample, "position": part.position + count - 1 - part.start}, is_longer
            if count == part.stop:
                return
    except tarfile.ReadError as reason:
        raise BcosError(f"the shard {part.url!r} is damaged after {count} samples ({reason}); {VERIFY}") from reason
    finally:
        with contextlib.suppress(OSError):  # of a command that was not read to its end
            stream.close()
    raise BcosError(f"the shard {part.url!r} ends after {count} samples, the index says at least {part.stop}; {VERIFY}")
