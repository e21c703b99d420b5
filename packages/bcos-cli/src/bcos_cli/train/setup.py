"""All that a run needs in one process, built from its recipe."""

import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    LoggerType,
    ProjectConfiguration,
    set_seed,
)
from timm.utils import ModelEmaV3  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import nn

from bcos_cli.config import Ema, Recipe, Train
from bcos_cli.config.keys import flat
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.loader import Reading, images_at
from bcos_cli.evaluate.samplers import SampledImages
from bcos_cli.processes.group import PATIENCE, has_no_accelerator
from bcos_cli.processes.preemption import Stopper
from bcos_cli.train import efficiency, state
from bcos_cli.train.anneal import Annealer
from bcos_cli.train.checkpoint import Checkpoints
from bcos_cli.train.distillation import Objective, Teacher, embedding_size
from bcos_cli.train.frozen_layers import freeze
from bcos_cli.train.history import History
from bcos_cli.train.loaders import epoch_batches, training_batches
from bcos_cli.train.losses import LossOptions, class_weights, make_loss
from bcos_cli.train.micro_batches import odd_for_mixing, plan_batches
from bcos_cli.train.model import build
from bcos_cli.train.optimizer import make_optimizer, make_schedule
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.sample_explanations import SampleExplanations
from bcos_cli.train.selection import Splits
from bcos_cli.train.train_step import Stepper
from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion

ASK_STEPS = 10
"""Steps after which processes on accelerators ask each other whether one was told to end."""


def make_accelerator(recipe: Recipe, out: Path) -> Accelerator:
    """Join the processes that were started together.

    Raises:
        BcosError: a precision that the device does not have, or a tracker that is not installed.
    """
    train = recipe.train
    known = [str(kind) for kind in LoggerType if kind != LoggerType.ALL]
    for name in train.trackers:
        if name not in known:
            raise BcosError(f"there is no train.trackers={name!r}; {suggestion(name, known)}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no supported trackers")  # which is told below
            accelerator = Accelerator(
                cpu=has_no_accelerator(),
                mixed_precision="no" if train.precision == "float64" else train.precision,
                log_with=list(train.trackers) or None,
                project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tensorboard")),
                kwargs_handlers=[
                    InitProcessGroupKwargs(timeout=PATIENCE),
                    # On CPUs gradients are added in an order that depends on DDP's buckets, which it lays out anew
                    # after the first step, unless it looks for unused parameters: a resumed run would differ.
                    DistributedDataParallelKwargs(find_unused_parameters=has_no_accelerator()),
                ],
            )
    except ValueError as reason:
        raise BcosError(
            f"train.precision={train.precision} does not work on this device: {reason}; use bf16 or no"
        ) from reason
    found = {str(getattr(name, "value", name)) for name in accelerator.log_with}
    if missing := [name for name in train.trackers if name not in found]:
        raise BcosError(f"train.trackers={missing[0]} is not installed; install it, or leave it out")
    accelerator.gradient_accumulation_steps = plan_batches(train, accelerator.num_processes).accumulate
    return accelerator


class Setup:
    """Network, data, optimizer and the rest of one run in one process.

    Args:
        recipe: with ``data.path``, and settled what chooses.
        index: of the data.
        folder: of the run.
        accelerator: of this process.

    Raises:
        BcosError: what of the recipe does not fit the data, the network or the processes.
    """

    def __init__(self, recipe: Recipe, index: ShardIndex, folder: RunFolder, accelerator: Accelerator) -> None:
        self.recipe = recipe
        self.index = index
        self.folder = folder
        self.accelerator = accelerator
        self.sharded = state.is_sharded(accelerator)
        if self.sharded:
            _refuse_with_parts(recipe)
        self.splits = Splits.of(recipe, index)
        self.history = History(folder, recipe.early_stopping)
        self.checkpoints = Checkpoints(folder.checkpoints, recipe.train.keep_checkpoints)
        self.plan = plan_batches(recipe.train, accelerator.num_processes)
        if (odd := odd_for_mixing(self.plan, recipe.mixing)) is not None:
            raise BcosError(odd)
        set_seed(recipe.train.seed)
        self.trained = build(recipe, _outputs(recipe, index))
        self.batches = training_batches(recipe, index, self.trained.input, self.plan, accelerator)
        self.epoch_batches = epoch_batches(recipe, index, self.trained.input, accelerator)
        self.steps_per_epoch = len(self.batches) // self.plan.accumulate
        self.annealer = Annealer(recipe, self.steps_per_epoch)
        network = self.trained.model
        if not self.sharded:
            network.to(accelerator.device)
        _prepare(network, recipe)
        self.ema = self._average(network)
        optimizer = make_optimizer(network, recipe.optimizer)
        self.schedule = make_schedule(
            optimizer, recipe.schedule, recipe.optimizer.lr, recipe.train.epochs, self.steps_per_epoch
        )
        self.teacher = Teacher(recipe.distillation, self.trained, accelerator.device) if recipe.distillation else None
        self.model: nn.Module
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.stepper = self._stepper()
        on_cpu, alone = accelerator.device.type == "cpu", accelerator.num_processes == 1
        self.stopper = Stopper(self.stepper.any_process, every=1 if on_cpu or alone else ASK_STEPS)
        self.watcher = self._watcher()

    @property
    def network(self) -> nn.Module:
        """The network without what Accelerate has put around it."""
        network: nn.Module = self.accelerator.unwrap_model(self.model)
        return network

    @property
    def networks(self) -> list[nn.Module]:
        """The network, and the average of its weights where there is one."""
        return [self.network] + ([] if self.ema is None else [self.ema.module])

    @property
    def learns_embedding(self) -> bool:
        """Whether outputs are those of a teacher instead of classes."""
        return self.recipe.distillation is not None and self.recipe.distillation.kind == "embedding"

    def _average(self, network: nn.Module) -> ModelEmaV3 | None:
        if self.recipe.ema is None:
            return None
        with efficiency.as_written(network):
            warmup = self.recipe.schedule.warmup(self.steps_per_epoch)
            return ModelEmaV3(network, decay=decay_of(self.recipe.ema, self.recipe.train), update_after_step=warmup)

    def _stepper(self) -> Stepper:
        train = self.recipe.train
        weights = class_weights(train, self.index, self.splits.train)
        options = LossOptions(label_smoothing=train.label_smoothing, class_weights=weights)
        labels = make_loss(train.loss, options).to(self.accelerator.device)
        if train.precision == "float64":
            labels.double()
        return Stepper(
            self.recipe,
            self.trained,
            self.model,
            self.optimizer,
            Objective(labels, self.teacher),
            self.accelerator,
            multi_label=self.index.multi_label,
        )

    def _watcher(self) -> SampleExplanations | None:
        data, count = self.recipe.data, self.recipe.train.explained_images
        if not count or self.sharded or self.learns_embedding or not self.accelerator.is_main_process:
            return None
        assert data.path is not None
        split = self.splits.final
        positions = SampledImages(count, self.index.samples(split)).positions
        found = images_at(data.path, self.index, split, self.trained.input, positions, Reading.of(data))
        images = [image for image, _ in found.values()]
        return SampleExplanations(self.trained, self.folder, torch.stack(images)) if images else None

    def start_trackers(self) -> None:
        """Open the trackers, each with the recipe."""
        recipe = flat(self.recipe.model_dump(mode="json"))
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in recipe.items()}
        self.accelerator.init_trackers("bcos", config=plain)


def decay_of(ema: Ema, train: Train) -> float:
    """Share of the average of weights that an update keeps."""
    if not ema.scaled:
        return ema.decay
    return 1 - min((1 - ema.decay) * train.batch_size * ema.every / train.epochs, 1)


def _refuse_with_parts(recipe: Recipe) -> None:
    """Refuse what needs all weights in every process.

    Raises:
        BcosError: the recipe has such a thing.
    """
    asked = {
        "ema": recipe.ema is not None,
        "train.restore_best": recipe.train.restore_best,
        "train.recalibrate_batches": bool(recipe.train.recalibrate_batches),
        "annealing.bias_epochs": bool(recipe.annealing.bias_epochs),
        "clipping.adaptive": recipe.clipping.adaptive is not None,
    }
    for key, is_asked in asked.items():
        if is_asked:
            raise BcosError(f"{key} does not work with FSDP, whose processes hold parts of the weights; leave it out")


def _outputs(recipe: Recipe, index: ShardIndex) -> list[str]:
    """Names of the outputs: the classes of the data, or the numbers of a teacher's."""
    if recipe.distillation is not None and recipe.distillation.kind == "embedding":
        return [str(k) for k in range(embedding_size(recipe.distillation.teacher))]
    return index.classes


def _prepare(network: nn.Module, recipe: Recipe) -> None:
    train = recipe.train
    freeze(network, recipe.model)
    if train.precision == "float64":
        network.double()
    if train.channels_last:
        network.to(memory_format=torch.channels_last)
    if train.gradient_checkpointing:
        efficiency.checkpoint_activations(network)
    if train.compile != "no":
        efficiency.compile_network(network, train.compile, train.compile_backend)
