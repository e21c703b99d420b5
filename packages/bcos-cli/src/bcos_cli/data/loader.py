"""Data loaders over shards."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bcos_cli.config import Augment
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.stream import Sample, Shards, ShardStream
from bcos_cli.data.transforms import BytesTransform, inference_transform, training_transform
from bcos_core.errors import BcosError
from bcos_models import InputSpec

Batch = tuple[Tensor, Tensor, Tensor]
"""8-bit images (N, C, H, W), labels (N,), positions in the split (N,)."""


@dataclass
class Batches:
    """Batches of one process, epoch by epoch."""

    stream: ShardStream
    loader: DataLoader[Sample]

    def __len__(self) -> int:
        return self.stream.batches

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Iterate over the batches of an epoch."""
        self.stream.set_epoch(epoch)
        try:
            yield from self.loader
        except BcosError as mistake:  # a worker's comes with its traceback as text
            raise BcosError(str(mistake).strip().rpartition("BcosError: ")[2]) from mistake


def make_batches(
    data: str,
    index: ShardIndex,
    split: str,
    spec: InputSpec,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    seed: int = 0,
    augment: Augment | None = None,
    accumulate: int = 1,
    shuffle: int = 0,
    pin_memory: bool = False,
) -> Batches:
    """Batches of `split`.

    For training with an `augment`, in equal numbers for each process, else for evaluation.
    """
    steps = inference_transform(spec) if augment is None else training_transform(spec, augment)
    stream = ShardStream(
        Shards.of(data, index, split),
        BytesTransform(spec.channels, steps, is_random=augment is not None),
        rank=rank,
        world=world,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        equal_multiple=None if augment is None else accumulate,
    )
    loader = DataLoader(
        stream,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # not the global one, whose state a resumed run cannot know
    )
    return Batches(stream, loader)
