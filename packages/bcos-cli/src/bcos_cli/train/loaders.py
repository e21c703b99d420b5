"""The batches of a run."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from bcos_cli.config import Data
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.loader import Batches, make_batches
from bcos_cli.data.reading import Reading
from bcos_cli.data.sample_order import Drawing
from bcos_cli.train.batch_size import BatchPlan
from bcos_cli.train.validation_split import Splits
from bcos_core.errors import BcosError
from bcos_models import InputSpec


@dataclass(frozen=True)
class Loaders:
    """Makes the batches of one process, for training and for evaluation."""

    data: Data
    index: ShardIndex
    splits: Splits
    spec: InputSpec
    seed: int
    accelerator: Accelerator

    def training(self, plan: BatchPlan) -> Batches:
        """Augmented, shuffled batches, as many for each process, without images that are held out."""
        data, split = self.data, self.splits.train
        if data.balanced and self.index.multi_label:
            raise BcosError("data.balanced draws classes equally often, these images have several labels; leave it out")
        # Each process gets the same number of batches, a multiple of those that are accumulated: one that ran out early
        # would leave the others waiting for its gradients. Evaluation has no such need, and counts every image once.
        drawing = Drawing(
            shuffle=data.shuffle_buffer,
            multiple=plan.accumulate,
            repeats=data.repeats,
            class_counts=tuple(self.index.class_counts(split)) if data.balanced else None,
        )
        return self._batches(
            split,
            plan.per_process,
            hold_out=self.splits.hold_out,
            augment=data.augment,
            size=data.train_image_size,
            drawing=drawing,
        )

    def epoch(self, batch_size: int) -> Batches:
        """Return the images of this process on which every epoch is scored, each once and as it is."""
        if self.splits.hold_out is None:
            return self._batches(self.splits.scored, batch_size)
        return self._batches(self.splits.train, batch_size, hold_out=self.splits.hold_out, part="held out")

    def final(self, batch_size: int) -> Batches:
        """Return the images of this process that are scored at the end."""
        return self._batches(self.splits.final, batch_size)

    def _batches(self, split: str, batch_size: int, **options: Any) -> Batches:
        return make_batches(
            self.data.location,
            self.index,
            split,
            self.spec,
            batch_size=batch_size,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=self.data.workers,
            seed=self.seed,
            reading=Reading.of(self.data),
            pin_memory=self.accelerator.device.type == "cuda",
            **options,
        )
