"""``train.max_batch: auto``: the largest batch of a process that fits, tried on its device or, on a CPU, estimated."""

from collections.abc import Callable

import psutil
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bcos_cli import console
from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex
from bcos_cli.processes.group import largest
from bcos_cli.train import fsdp
from bcos_cli.train.batch_size import AUTO, plan_batches
from bcos_cli.train.trial_step import trial_step
from bcos_core.errors import BcosError

CPU_SHARE = 0.5
"""Share of a machine's free memory that activations may take; loaders, gradients and other programs take some too."""
_MEASURED = 2
"""Images with which the memory of activations is measured."""


def with_max_batch(recipe: Recipe, index: ShardIndex, accelerator: Accelerator) -> Recipe:
    """Return the recipe with the number that ``train.max_batch: auto`` stands for, which ``config.yaml`` then names.

    It divides a process's share of a step, and is the same for all processes.

    Args:
        recipe: one with another value stays as it is.

    Raises:
        BcosError: not even one image fits, or the network is sharded.
    """
    if recipe.train.max_batch != AUTO:
        return recipe
    if fsdp.is_sharded(accelerator):
        raise BcosError("train.max_batch=auto tries a whole network on one device, FSDP shards it; give a number")
    share = plan_batches(recipe.train, accelerator.num_processes).per_process
    even = 2 if recipe.mixing.mixup or recipe.mixing.cutmix else 1
    sizes = [size for size in range(share, 0, -1) if share % size == 0 and (size % even == 0 or size == share)]
    step = trial_step(recipe, index, accelerator)
    found = _fitting_memory(step, sizes) if accelerator.device.type == "cpu" else _fitting_device(step, sizes)
    most = -largest(-found, accelerator.device)
    if accelerator.is_main_process:
        console.err.print(f"train.max_batch: {most} of the {share} images of a process fit at once (auto)")
    if not most:
        raise BcosError(
            f"train.max_batch=auto: not even {sizes[-1]} images fit into the memory of {accelerator.device}; use a "
            "smaller network or image, train.gradient_checkpointing or train.precision=bf16"
        )
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_batch": most})})


def _fitting_device(step: Callable[[int], None], sizes: list[int]) -> int:
    """Return the first of `sizes` with which two steps do not run out of memory; 0 if none."""
    left = iter([*sizes[1:], 0])

    @find_executable_batch_size(starting_batch_size=sizes[0], reduce_batch_size_fn=lambda: next(left))  # type: ignore[untyped-decorator] # reason: Accelerate's
    def attempt(size: int) -> int:
        for _ in range(2):  # the first one makes the state of the optimizer
            step(size)
        return size

    try:
        return int(attempt())
    except RuntimeError as reason:
        if "No executable batch size" not in str(reason):
            raise
        return 0


def _fitting_memory(step: Callable[[int], None], sizes: list[int]) -> int:
    """Return the first of `sizes` whose activations fit into a share of the free memory; 0 if none."""
    sums = [_activation_bytes(step, images) for images in (_MEASURED, 2 * _MEASURED)]
    per_image = max((sums[1] - sums[0]) / _MEASURED, 1)
    free = CPU_SHARE * psutil.virtual_memory().available
    return next((size for size in sizes if size * per_image <= free), 0)


def _activation_bytes(step: Callable[[int], None], images: int) -> int:
    """Sum up the memory of what a step keeps for its backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        step(images)
    return sum(storages.values())
