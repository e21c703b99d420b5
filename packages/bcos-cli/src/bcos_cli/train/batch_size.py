"""The batch size: how processes and accumulated batches share the images of a step. Imports no torch."""

from dataclasses import dataclass

from bcos_cli.config import Mixing, Recipe, Train
from bcos_core.errors import BcosError

AUTO = "auto"
"""Value of what a run finds out when it starts: ``train.max_batch``, the largest that fits, and ``train.compile``."""


def with_found_values(recipe: Recipe, before: Recipe | None) -> Recipe:
    """Return the recipe with what ``auto`` stands for in a run that is resumed, if one is: it goes on as it began."""
    if before is None:
        return recipe
    found = {key: getattr(before.train, key) for key in ("max_batch", "compile") if getattr(recipe.train, key) == AUTO}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=found)})


@dataclass(frozen=True)
class BatchPlan:
    """``per_process × accumulate × world`` images make one step."""

    per_process: int
    """Images that a process passes through the network at once."""
    accumulate: int
    """Batches of a process whose gradients make one step."""
    world: int
    """Processes."""

    @property
    def effective(self) -> int:
        """Images of one step."""
        return self.per_process * self.accumulate * self.world


def check_mixing(plan: BatchPlan, mixing: Mixing) -> None:
    """Refuse to mix batches of an odd number of images, which cannot be paired."""
    if plan.per_process % 2 and (mixing.mixup or mixing.cutmix):
        raise BcosError(
            f"mixing needs batches of an even number of images, a process's has {plan.per_process}; "
            "change train.batch_size or train.max_batch"
        )


def plan_batches(train: Train, world: int) -> BatchPlan:
    """Split the effective batch over `world` processes; refuse one that cannot be split into equal parts.

    Before it is known what ``train.max_batch: auto`` stands for, a process takes all of its share at once.
    """
    share, rest = divmod(train.batch_size, world)
    if rest:
        raise BcosError(
            f"train.batch_size={train.batch_size} cannot be split over {world} processes; "
            f"make it a multiple of {world}, or use another number of processes"
        )
    if train.accumulate is not None:
        if share % train.accumulate:
            raise BcosError(
                f"train.batch_size={train.batch_size} cannot be split over {world} processes and "
                f"{train.accumulate} accumulated batches; make it a multiple of {world * train.accumulate}"
            )
        return BatchPlan(share // train.accumulate, train.accumulate, world)
    largest = min(train.max_batch, share) if isinstance(train.max_batch, int) else share
    per_process = next(size for size in range(largest, 0, -1) if share % size == 0)
    return BatchPlan(per_process, share // per_process, world)
