"""Training steps of a network made for this alone, to find out what the run's own will take."""

from collections.abc import Callable

import torch
from accelerate import Accelerator

from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex
from bcos_cli.train.distillation import Objective, Teacher, output_names
from bcos_cli.train.losses import training_loss
from bcos_cli.train.model import build, prepare_network, train_mode
from bcos_cli.train.optimization import make_average, make_optimizer
from bcos_cli.train.validation_split import Splits


def trial_step(recipe: Recipe, index: ShardIndex, accelerator: Accelerator) -> Callable[[int], None]:
    """Return what trains a network of the recipe, made for this alone, for a step on that many images."""
    train, device = recipe.train, accelerator.device
    trained = build(recipe, output_names(recipe.distillation, index))
    network = trained.model.to(device)
    prepare_network(network, recipe.model, train.model_copy(update={"compile": "no"}))
    train_mode(network, recipe.model, recipe.train.norm_statistics)
    optimizer = make_optimizer(network, recipe.optimizer)
    teacher = Teacher(recipe.distillation, trained, device) if recipe.distillation else None
    loss = training_loss(train, index, Splits.of(recipe.data, index).train).to(device)
    objective = Objective(loss, teacher)
    average = make_average(network, recipe.ema, train, 0)
    buckets = [torch.empty_like(p) for p in network.parameters()] if accelerator.num_processes > 1 else []  # of DDP
    spec = trained.input
    side = recipe.data.train_image_size or spec.size
    shape = (len(index.classes),) if index.multi_label else ()

    def step(size: int) -> None:
        pixels = torch.rand(size, spec.channels, side, side, device=device)
        targets = torch.zeros(size, *shape, device=device, dtype=torch.float32 if shape else torch.int64)
        if train.precision == "float64":
            pixels = pixels.double()
        with accelerator.autocast():
            objective(network(trained.encode(pixels)), targets, pixels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step.occupied = average, buckets  # type: ignore[attr-defined] # reason: they take memory as long as it is tried
    return step
