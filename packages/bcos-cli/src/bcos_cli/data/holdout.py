"""A share of a split that is held out, by positions in its shards. Imports no torch."""

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bcos_core.errors import BcosError

LARGEST = 1_000_000
"""Samples of a shard; the index may say anything."""


@dataclass(frozen=True)
class HoldOut:
    """A seeded share of a split's samples.

    Every shard gives its part, drawn from its positions: they follow from the lengths of the shards alone, and are the
    same in every process, on every call.
    """

    share: float
    seed: int

    def counts(self, lengths: Sequence[int]) -> list[int]:
        """Samples that are held out of each shard; in all the share, rounded, but at least one.

        Raises:
            BcosError: a shard with more samples than it is sensible to draw from.
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
        """`count` positions in the shard numbered `shard`, which has `length` samples."""
        draw = random.Random(f"{self.seed}/{shard}/held out").random  # the one stream that Python promises to keep
        return frozenset(k for _, k in heapq.nsmallest(count, ((draw(), k) for k in range(length))))


Part = Literal["held out", "rest"]
"""Of a split of which a share is held out."""
