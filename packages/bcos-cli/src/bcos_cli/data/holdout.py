"""A share of a split that is held out, by positions in its shards. Imports no torch."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HoldOut:
    """A seeded share of a split's samples.

    Every shard gives its part, drawn from its positions: they follow from the lengths of the shards alone, and are the
    same in every process, on every call.
    """

    share: float
    seed: int

    def counts(self, lengths: Sequence[int]) -> list[int]:
        """Samples that are held out of each shard; in all the share, rounded, but at least one."""
        total = sum(lengths)
        count = max(round(self.share * total), 1)
        ends = [0, *(end * count // max(total, 1) for end in itertools.accumulate(lengths))]
        return [end - start for start, end in itertools.pairwise(ends)]

    def positions(self, shard: int, length: int, count: int) -> frozenset[int]:
        """`count` positions in the shard numbered `shard`, which has `length` samples."""
        draw = random.Random(f"{self.seed}/{shard}/held out").random  # the one stream that Python promises to keep
        ranked = sorted((draw(), position) for position in range(length))
        return frozenset(position for _, position in ranked[:count])


Part = Literal["held out", "rest"]
"""Of a split of which a share is held out."""
