"""The batches of a run."""

from typing import Any

from accelerate import Accelerator

from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.loader import Batches, Reading, make_batches
from bcos_cli.data.sample_order import Drawing
from bcos_cli.train.micro_batches import BatchPlan
from bcos_cli.train.selection import Splits
from bcos_core.errors import BcosError
from bcos_models import InputSpec


def training_batches(
    recipe: Recipe, index: ShardIndex, spec: InputSpec, plan: BatchPlan, accelerator: Accelerator
) -> Batches:
    """Augmented, shuffled batches of this process, as many for each process, without images that are held out."""
    data, splits = recipe.data, Splits.of(recipe, index)
    if data.balanced and index.multi_label:
        raise BcosError("data.balanced draws classes equally often, these images have several labels; leave it out")
    drawing = Drawing(
        shuffle=data.shuffle_buffer,
        multiple=plan.accumulate,
        repeats=data.repeats,
        class_counts=tuple(index.class_counts(splits.train)) if data.balanced else None,
    )
    return make_batches(
        split=splits.train,
        hold_out=splits.hold_out,
        batch_size=plan.per_process,
        augment=data.augment,
        size=data.train_image_size,
        drawing=drawing,
        **_common(recipe, index, spec, accelerator),
    )


def epoch_batches(recipe: Recipe, index: ShardIndex, spec: InputSpec, accelerator: Accelerator) -> Batches:
    """Batches of this process's share of the images on which every epoch is scored, each once and as it is."""
    splits = Splits.of(recipe, index)
    if splits.hold_out is None:
        return _evaluation_batches(recipe, index, spec, accelerator, split=splits.scored)
    return _evaluation_batches(
        recipe, index, spec, accelerator, split=splits.train, hold_out=splits.hold_out, part="held out"
    )


def final_batches(recipe: Recipe, index: ShardIndex, spec: InputSpec, accelerator: Accelerator) -> Batches:
    """The same of the images that are scored in the end."""
    return _evaluation_batches(recipe, index, spec, accelerator, split=Splits.of(recipe, index).final)


def _evaluation_batches(
    recipe: Recipe, index: ShardIndex, spec: InputSpec, accelerator: Accelerator, **images: Any
) -> Batches:
    return make_batches(batch_size=recipe.evaluation.batch_size, **images, **_common(recipe, index, spec, accelerator))


def _common(recipe: Recipe, index: ShardIndex, spec: InputSpec, accelerator: Accelerator) -> dict[str, Any]:
    data = recipe.data
    return {
        "data": data.path,
        "index": index,
        "spec": spec,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "workers": data.workers,
        "seed": recipe.train.seed,
        "reading": Reading.of(data),
        "pin_memory": accelerator.device.type == "cuda",
    }
