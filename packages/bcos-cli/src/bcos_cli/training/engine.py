"""The training loop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast, set_seed
from torch import Tensor, nn

from bcos_cli import console
from bcos_cli.config import Recipe
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import Batches, make_batches
from bcos_cli.evaluation import Scores, evaluate
from bcos_cli.processes import has_no_accelerator
from bcos_cli.trained import TrainedModel, build
from bcos_cli.training.annealing import Annealer
from bcos_cli.training.checkpoint import Checkpoints, Progress
from bcos_cli.training.folder import RunFolder
from bcos_cli.training.optim import make_loss, make_optimizer, make_schedule
from bcos_core.errors import BcosError

NAN_CHECK_STEPS = 50
"""Steps between looks at the loss; each look waits for the device."""


@dataclass
class TrainingResult:
    """A finished run."""

    trained: TrainedModel
    scores: Scores
    index: ShardIndex
    data: str


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> TrainingResult:
    """Train the network of `recipe`, on every process that was started.

    Args:
        recipe: with ``data.path``.
        out: folder of the run.
        resume: continue from the last checkpoint in `out`.

    Raises:
        BcosError: a recipe that does not fit the data or the number of processes, a folder in use, or a loss
            that is not finite.
    """
    if recipe.data.path is None:
        raise BcosError("there are no data to train on; give a folder of shards with --data")
    index = load_index(recipe.data.path)
    if len(index.classes) < 2:
        raise BcosError(f"the shards have the class {index.classes[0]!r} alone; a classifier needs at least two")
    accelerator = _accelerator(recipe, out)
    folder = RunFolder(out)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            folder.check_same(recipe) if resume else folder.start(recipe)
    training = _Training(recipe, index, folder, accelerator)
    training.run(resume)
    return TrainingResult(training.trained, training.scores, index, recipe.data.path)


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    try:
        return Accelerator(
            cpu=has_no_accelerator(),
            mixed_precision=recipe.train.precision,
            gradient_accumulation_steps=recipe.train.accumulate,
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
        )
    except ValueError as reason:
        raise BcosError(
            f"train.precision={recipe.train.precision} does not work on this device: {reason}; use bf16 or no"
        ) from reason


class _Training:
    """State of one run in one process."""

    def __init__(self, recipe: Recipe, index: ShardIndex, folder: RunFolder, accelerator: Accelerator) -> None:
        self.recipe = recipe
        self.folder = folder
        self.accelerator = accelerator
        self.progress = Progress()
        set_seed(recipe.train.seed)
        self.trained = build(recipe, index.classes)
        self.batches, self.test_batches = self._loaders(index)
        self.steps_per_epoch = len(self.batches) // recipe.train.accumulate
        self.annealer = Annealer(recipe, self.steps_per_epoch)
        optimizer = make_optimizer(self.trained.model, recipe.optimizer)
        self.schedule = make_schedule(
            optimizer, recipe.schedule, recipe.optimizer.lr, recipe.train.epochs, self.steps_per_epoch
        )
        self.loss = make_loss(recipe.train.loss)
        self.scores: Scores
        self.model: nn.Module
        self.model, self.optimizer = accelerator.prepare(self.trained.model, optimizer)
        self.checkpoints = Checkpoints(folder.checkpoints, recipe.train.keep_checkpoints)

    def _loaders(self, index: ShardIndex) -> tuple[Batches, Batches]:
        data, train = self.recipe.data, self.recipe.train
        world = self.accelerator.num_processes
        if train.batch_size % (world * train.accumulate):
            raise BcosError(
                f"train.batch_size={train.batch_size} cannot be split over {world} processes and "
                f"{train.accumulate} accumulated batches; make it a multiple of {world * train.accumulate}"
            )
        common: dict[str, Any] = {
            "rank": self.accelerator.process_index,
            "world": world,
            "workers": data.workers,
            "seed": train.seed,
            "pin_memory": self.accelerator.device.type == "cuda",
        }
        assert data.path is not None
        for_training = make_batches(
            data.path,
            index,
            data.train_split,
            self.trained.input,
            batch_size=train.batch_size // (world * train.accumulate),
            augment=data.augment,
            accumulate=train.accumulate,
            shuffle=data.shuffle_buffer,
            **common,
        )
        batch_size = self.recipe.evaluation.batch_size
        for_test = make_batches(data.path, index, data.test_split, self.trained.input, batch_size=batch_size, **common)
        return for_training, for_test

    def run(self, resume: bool) -> None:
        """Train to the last epoch, from the first or from the last checkpoint."""
        if resume:
            self._restore()
        self.accelerator.init_trackers("tensorboard")
        for epoch in range(self.progress.epoch, self.recipe.train.epochs):
            self._one_epoch(epoch)
        if self.progress.epoch == self.recipe.train.epochs and not hasattr(self, "scores"):
            self.scores = self._evaluate()  # a finished run was resumed
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.annealer.finish(self.accelerator.unwrap_model(self.model))
        if self.accelerator.is_main_process:
            self.trained.save(self.folder.weights, self.accelerator.unwrap_model(self.model))
        # without Accelerate's autocast: scores and explanations are those of the saved weights
        self.trained.model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).eval()
        self.accelerator.wait_for_everyone()

    def _one_epoch(self, epoch: int) -> None:
        start = time.perf_counter()
        loss = self._train_epoch(epoch)
        seconds = time.perf_counter() - start
        self._share_buffers()
        self.scores = self._evaluate()
        comparable = self.annealer.is_over((epoch + 1) * self.steps_per_epoch)  # with what the run ends with
        is_best = comparable and self.scores.top1 > self.progress.best_top1
        self.progress = Progress(
            epoch + 1, (epoch + 1) * self.steps_per_epoch, self.scores.top1 if is_best else self.progress.best_top1
        )
        images = len(self.batches.stream) * self.accelerator.num_processes
        values = {
            "epoch": epoch + 1,
            "step": self.progress.step,
            "train_loss": loss,
            "test_loss": self.scores.loss,
            "test_top1": self.scores.top1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images / seconds,
            "seconds": seconds,
        }
        self.accelerator.log({k: v for k, v in values.items() if k not in ("epoch", "step")}, step=epoch + 1)
        if self.accelerator.is_main_process:
            self.folder.add_metrics(values)
            self.checkpoints.save(
                self.accelerator.unwrap_model(self.model), self._state(), self.progress, is_best=is_best
            )
        self.accelerator.wait_for_everyone()

    def _share_buffers(self) -> None:
        """Take over the running statistics of the main process, which are the ones that are saved."""
        for buffer in self.accelerator.unwrap_model(self.model).buffers():
            broadcast(buffer)

    def _train_epoch(self, epoch: int) -> float:
        """Train on all batches; return the mean loss over all processes."""
        # Whatever the network draws at random (stochastic depth) is a function of seed, epoch and rank.
        torch.manual_seed(hash((self.recipe.train.seed, epoch, self.accelerator.process_index)) % 2**63)
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        step = epoch * self.steps_per_epoch
        for i, (images, labels) in enumerate(self._counted_batches(epoch, total)):
            with self.accelerator.accumulate(self.model):
                loss = self._step(images, labels)
            if self.accelerator.sync_gradients:
                step += 1
                self.schedule.step_update(step)
                self.annealer.after_step(self.accelerator.unwrap_model(self.model), step)
            total += loss.detach()
            if i % NAN_CHECK_STEPS == 0:
                self._check_finite(total, epoch, step)
        self._check_finite(total, epoch, step)
        mean: Tensor = self.accelerator.reduce(total / len(self.batches), reduction="mean")
        return float(mean)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        device = self.accelerator.device
        x = self.trained.encode(images.to(device, non_blocking=True))
        with self.accelerator.autocast():
            loss: Tensor = self.loss(self.model(x), labels.to(device, non_blocking=True))
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients and self.recipe.train.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def _counted_batches(self, epoch: int, total: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        label = f"epoch {epoch + 1}/{self.recipe.train.epochs}"
        world = self.accelerator.num_processes
        with console.counted(label, len(self.batches), self.accelerator.is_main_process) as counter:
            for i, (images, labels, _) in enumerate(self.batches.epoch(epoch)):
                yield images, labels
                note = f"loss {float(total) / (i + 1):.4f}" if i % NAN_CHECK_STEPS == 0 else None
                counter.advance(images=len(images) * world, note=note)

    def _check_finite(self, total: Tensor, epoch: int, step: int) -> None:
        if not bool(torch.isfinite(total)):
            lr = self.optimizer.param_groups[0]["lr"]
            raise BcosError(
                f"the loss is {float(total)} at epoch {epoch + 1}, step {step}, learning rate {lr:.2g}; "
                "lower optimizer.lr, set train.clip_norm, or use train.precision=no"
            )

    def _evaluate(self) -> Scores:
        return evaluate(
            self.trained,
            self.accelerator.unwrap_model(self.model),
            self.test_batches,
            make_loss(self.recipe.train.loss, evaluation=True),
            device=self.accelerator.device,
            show_progress=self.accelerator.is_main_process,
        )

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _restore(self) -> None:
        loaded = self.checkpoints.load_last(self.accelerator.unwrap_model(self.model))
        if loaded is not None:
            self.progress, state = loaded
            self._restore_state(state)
        if self.accelerator.is_main_process:
            self.folder.keep_metrics(self.progress.epoch)

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.schedule.step_update(self.progress.step)
        self.annealer.set(self.accelerator.unwrap_model(self.model), self.progress.step)
