"""Data loaders over shards, and single images of them."""

import signal
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bcos_cli.config import Augment
from bcos_cli.data.augmentation import BytesTransform, training_transform
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.input_image import inference_transform
from bcos_cli.data.reading import Reading
from bcos_cli.data.sample_order import Drawing, SampleOrder
from bcos_cli.data.shards import HoldOut, Part, Shards
from bcos_cli.data.stream import Labelling, Sample, ShardStream
from bcos_cli.processes.parent import end_with_starter
from bcos_cli.processes.signals import SIGNALS
from bcos_cli.processes.torch_errors import dead_loader
from bcos_core.errors import BcosError
from bcos_models import InputSpec

Batch = tuple[Tensor, Tensor, Any]
"""8-bit images (N, C, H, W), labels (N,) or (N, K), positions in the split (N,) or a :class:`Place`."""


@dataclass
class Batches:
    """Batches of one process, epoch by epoch.

    Loader processes stay from one epoch to the next. They end with the block ``with batches:``, and where an epoch is
    left early.
    """

    stream: ShardStream
    loader: DataLoader[Sample]

    @classmethod
    def of(
        cls, stream: ShardStream, batch_size: int, workers: int, *, seed: int = 0, pin_memory: bool = False
    ) -> "Batches":
        """Make the loader of a stream."""
        loader = DataLoader(
            stream,
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_main_process,
            generator=torch.Generator().manual_seed(seed),  # not the global one, whose state a resumed run cannot know
        )
        return cls(stream, loader)

    def __post_init__(self) -> None:
        """Leave no process behind at the end of the program, whatever still refers to this."""
        weakref.finalize(self, _end_processes, self.loader)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        # Otherwise they live as long as anything refers to these batches: a traceback, a cycle of objects.
        _end_processes(self.loader)

    def __len__(self) -> int:
        return self.stream.order.batches

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, from the one numbered `first`.

        Raises:
            BcosError: something cannot be read, or a loader process has died.
        """
        self.stream.set_epoch(epoch, first)
        try:
            yield from self.loader
        except BaseException as reason:  # GeneratorExit too: the next epoch is not to begin with what was read ahead
            _end_processes(self.loader)
            if isinstance(reason, BcosError):  # that of a loader process comes with its traceback as text
                raise BcosError(str(reason).strip().rpartition("BcosError: ")[2]) from reason
            if isinstance(reason, RuntimeError) and (dead := dead_loader(reason)) is not None:
                raise dead from reason
            raise


def _end_processes(loader: DataLoader[Sample]) -> None:
    """End the loader's processes: they ignore the SIGTERM it sends, and Python waits for them when it exits."""
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None:
        iterator._shutdown_workers()  # type: ignore[attr-defined] # reason: torch has no public way
        for process in iterator._workers:  # type: ignore[attr-defined] # reason: the same
            if process.is_alive():  # waiting for a file, perhaps
                process.kill()
                process.join()


def _leave_signals_to_the_main_process(_worker: int) -> None:
    """Ignore what schedulers and terminals send to all processes: the main one needs its loaders to end in order."""
    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_starter()


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
    size: int | None = None,
    drawing: Drawing | None = None,
    hold_out: HoldOut | None = None,
    part: Part = "rest",
    most: int | None = None,
    reading: Reading | None = None,
    pin_memory: bool = False,
    named: bool = False,
) -> Batches:
    """Return the batches of a split that one process gets.

    Args:
        batch_size: images in a batch of this process.
        augment: for training, in equal numbers for each process; None for evaluation.
        size: side of augmented images; None for that of `spec`.
        named: give a :class:`bcos_cli.data.stream.Place` instead of positions.
        most: samples of this process in evaluation; None for its whole share.
    """
    reading = reading or Reading()
    is_random = augment is not None
    steps = inference_transform(spec) if augment is None else training_transform(spec, augment, size)
    order = SampleOrder(
        Shards.of(data, index, split, hold_out, part),
        rank=rank,
        world=world,
        batch_size=batch_size,
        seed=seed,
        drawing=(drawing or Drawing()) if is_random else None,
        most=most,
    )
    stream = ShardStream(
        order,
        BytesTransform(index.pixels(spec, reading.truncated), steps, is_random, reading.decoder),
        Labelling.of(index),
        open_shard=reading.opener(),
        skip=reading.skip,
        named=named,
    )
    return Batches.of(stream, batch_size, workers, seed=seed, pin_memory=pin_memory)


def images_at(
    data: str,
    index: ShardIndex,
    split: str,
    spec: InputSpec,
    positions: Collection[int],
    reading: Reading | None = None,
) -> dict[int, tuple[Tensor, list[int]]]:
    """Return the 8-bit image (C, H, W) and the labels at each position of a split; only these are decoded.

    Raises:
        BcosError: a position that is not there, or, unless such are left out, an image that cannot be read.
    """
    stream = make_batches(data, index, split, spec, batch_size=1, reading=reading).stream
    return {position: (image, labels_of(label)) for image, label, position in stream.at(positions)}


def sampled_images(
    data: str, index: ShardIndex, split: str, spec: InputSpec, number: int, part: int = 0, of: int = 1
) -> tuple[Tensor, Tensor]:
    """Return evenly spaced images of a split, floats (N, C, H, W) in [0, 1], and their first labels (N,).

    Args:
        number: of images, at most.
        part: of `of` samples that have no image in common; from 0.
    """
    count = index.samples(split) // of
    chosen = sorted({of * (i * count // min(number, count)) + part for i in range(min(number, count))})
    found = images_at(data, index, split, spec, chosen)
    if not found:
        raise BcosError(f"the split {split!r} of {data!r} has too few images")
    images, labels = zip(*(found[position] for position in sorted(found)), strict=True)
    return torch.stack(images).float() / 255, torch.tensor([label[0] if label else -1 for label in labels])


def labels_of(label: int | Tensor) -> list[int]:
    """Return the classes of a sample: its label, or those that are not 0 in (K,)."""
    if isinstance(label, Tensor) and label.ndim:
        return [int(k) for k in label.nonzero()[:, 0]]
    return [int(label)]
