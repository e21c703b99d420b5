"""Training: epochs of steps, an evaluation after each, checkpoints in between."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import broadcast_object_list
from torch import Tensor

from bcos_cli import console
from bcos_cli.config import Recipe, load_recipe
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.evaluate.classification import Scores
from bcos_cli.processes.group import total
from bcos_cli.processes.preemption import EXIT_STATUS, Preempted
from bcos_cli.train.checkpoint import Progress
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.evaluation import scores_of, share_buffers
from bcos_cli.train.finalize import finish
from bcos_cli.train.finite import LossWatch, SkippedSteps, keep_batch
from bcos_cli.train.frozen_layers import train_mode
from bcos_cli.train.history import epoch_line
from bcos_cli.train.keeping import restore, save
from bcos_cli.train.loaders import training_batches
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.selection import settled
from bcos_cli.train.setup import Setup, make_accelerator
from bcos_cli.train.train_step import seed_batch
from bcos_core.errors import BcosError
from bcos_models import TrainedModel
from bcos_models.finite import not_finite, some_of

LOOK_STEPS = 50
"""Batches between looks at the loss on an accelerator; each look waits for it."""


@dataclass
class TrainingResult:
    """A finished run."""

    trained: TrainedModel
    scores: Scores | Agreement | None
    """On the images that are scored in the end; None where training has not scored the network on them."""
    index: ShardIndex
    data: str
    recipe: Recipe
    """With what has chosen, as ``config.yaml`` has it."""


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> TrainingResult:
    """Train the network of `recipe`; arguments and errors as of :func:`trained`."""
    with trained(recipe, out, resume=resume) as result:
        return result


@contextmanager
def trained(recipe: Recipe, out: Path, *, resume: bool = False) -> Iterator[TrainingResult]:
    """Train the network of `recipe`, on every process that was started.

    Until the end of the block no other process can train into the folder, and a signal that asks for an early end ends
    the block at once.

    Args:
        recipe: with ``data.path``.
        out: folder of the run.
        resume: continue from the last checkpoint in `out`.

    Raises:
        BcosError: a recipe that does not fit the data or the number of processes, a folder in use, or a loss
            that is not finite.
        Preempted: a signal asked for an early end; the run goes on where it is resumed.
    """
    data = recipe.data.path
    if data is None:
        raise BcosError("there are no data to train on; give a folder of shards with --data")
    index = load_index(data)
    if len(index.classes) < 2:
        raise BcosError(f"the shards have the class {index.classes[0]!r} alone; a classifier needs at least two")
    accelerator = make_accelerator(recipe, out)
    resume = broadcast_object_list([resume])[0]  # another process may have looked later, when there was a run
    folder = RunFolder(out)
    before = load_recipe(str(folder.config)) if resume and folder.config.exists() else None
    recipe = settled(recipe, index, before)
    with ExitStack() as held:
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                held.enter_context(folder.opened(recipe, resume=resume))
        folder.check_seen()
        run = _Run(Setup(recipe, index, folder, accelerator))
        held.enter_context(run.setup.stopper.listening())
        held.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        scores = run.to_the_end(resume)
        with run.while_scored():
            yield TrainingResult(run.setup.trained, scores, index, data, recipe)


class _Run:
    """The course of a run in one process."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.recipe = setup.recipe
        self.accelerator = setup.accelerator
        self.progress = Progress()
        self.scores: Scores | Agreement | None = None

    def to_the_end(self, resume: bool) -> Scores | Agreement | None:
        """Train to the last epoch, from the first or from the last checkpoint; return the final scores, if any."""
        if self.accelerator.is_main_process:
            for text in self.setup.splits.told(self.recipe, self.setup.index):
                console.err.print(text, soft_wrap=True)
        if resume:
            self.progress = restore(self.setup)
        self.setup.start_trackers()
        history, stopper = self.setup.history, self.setup.stopper
        while self.progress.epoch < self.recipe.train.epochs and not history.is_over(self.setup.annealer.is_over):
            if self.progress.batch < len(self.setup.batches):
                self._train_epoch()
                if stopper.asked():
                    self._end_early(self.setup.checkpoints.last())
            if not history.has(self.progress.epoch + 1):
                self._evaluate_epoch()
                if self.progress.epoch + 1 < self.recipe.train.epochs and stopper.asked():
                    self._end_early(self.setup.checkpoints.last())
            self.progress = Progress(self.progress.epoch + 1, step=self.progress.step, left_out=self.progress.left_out)
        return finish(self.setup, self.scores)

    @contextmanager
    def while_scored(self) -> Iterator[None]:
        """For what follows the training, which a signal may end at once: it is done again where the run is resumed."""
        stopper = self.setup.stopper
        if stopper.asked():
            self._end_early(self.setup.checkpoints.last())
        try:
            with stopper.at_once():
                yield
        except Preempted:
            self._tell_end(f"{stopper.received} while the trained network was scored")
            raise

    def _train_epoch(self) -> None:
        """Train on the batches of an epoch that are left; then write a checkpoint."""
        setup, progress, train = self.setup, self.progress, self.recipe.train
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        setup.model.train()
        train_mode(setup.network, self.recipe.model)
        self.watch = LossWatch(
            self.accelerator.device, progress.losses[rank] if progress.losses else 0.0, setup.stepper.dtype
        )
        self.skipped = SkippedSteps(train.max_not_finite, progress.left_out)
        self.since = time.perf_counter()
        self.rates = rates = dict[int, float]()
        look = 1 if self.accelerator.device.type == "cpu" else LOOK_STEPS
        label = f"epoch {progress.epoch + 1}/{train.epochs}"
        with console.counted(label, len(setup.batches), self.accelerator.is_main_process) as counter:
            counter.advance(progress.batch)
            for images, labels, positions in setup.batches.epoch(progress.epoch, progress.batch):
                seed_batch(train.seed, progress.epoch, progress.batch, rank)
                rates[progress.batch] = setup.optimizer.param_groups[0]["lr"]
                self.watch.add(setup.stepper.run(images, labels), progress.batch)
                if setup.stepper.left_out_batch:
                    self._keep_batch(progress.batch, images, labels, positions)
                progress.batch += 1
                counter.advance(images=len(images) * world, note=self._note())
                if progress.batch % look == 0:
                    self._check_finite()
                if self.accelerator.sync_gradients:
                    self._after_step()
        progress.unread = total(setup.batches.stream.skipped, self.accelerator.device)
        self._save()

    def _note(self) -> str | None:
        batches = self.progress.batch
        return f"loss {float(self.watch.total) / batches:.4f}" if batches % LOOK_STEPS == 0 else None

    def _after_step(self) -> None:
        """What follows a step: schedule, annealing, average, checkpoint, and the question whether to go on."""
        setup, progress = self.setup, self.progress
        progress.step += 1
        if setup.stepper.left_out_step:
            self.skipped.add(f"at epoch {progress.epoch + 1}, step {progress.step:,}")
            progress.left_out = self.skipped.count
        setup.schedule.step_update(progress.step)
        for network in setup.networks:
            setup.annealer.after_step(network, progress.step)
        if setup.ema is not None and self.recipe.ema is not None and progress.step % self.recipe.ema.every == 0:
            setup.ema.update(setup.network, progress.step)
        if progress.batch == len(setup.batches):
            return  # there is a checkpoint at the end of an epoch
        if setup.stopper.wanted(progress.step):
            self._end_early(self._save())
        every = self.recipe.train.checkpoint_steps
        if every and progress.step % every == 0:
            self._save()

    def _end_early(self, path: Path | None) -> None:
        received = self.setup.stopper.received or "a signal to another process"
        self._tell_end(f"{received} after step {self.progress.step:,}, with the checkpoint {path}")
        raise Preempted

    def _tell_end(self, reason: str) -> None:
        if self.accelerator.is_main_process:
            self.setup.folder.preempted.touch()
            console.err.print(f"ended by {reason}; continue with --resume (exit status {EXIT_STATUS})", soft_wrap=True)

    def _save(self) -> Path | None:
        self._check_finite()
        self._check_weights()
        now = time.perf_counter()
        self.progress.seconds += now - self.since
        self.since = now
        return save(self.setup, self.progress, float(self.watch.total))

    def _check_finite(self) -> None:
        """End the run in every process if a loss was not finite in one, which keeps the batch.

        Raises:
            BcosError: it was not.
        """
        if self.setup.stepper.skips:
            return
        bad = self.watch.first_bad()
        if not self.setup.stepper.any_process(bad is not None):
            return
        if bad is None:
            raise BcosError("the loss of another process is not finite; it says which one")
        recipe, setup = self.recipe, self.setup
        again = training_batches(recipe, setup.index, setup.trained.input, setup.plan, self.accelerator)
        kept = self._keep_batch(bad, *next(again.epoch(self.progress.epoch, bad)))
        step = self.progress.epoch * setup.steps_per_epoch + bad // setup.plan.accumulate + 1
        raise BcosError(
            f"the loss is not finite at epoch {self.progress.epoch + 1}, step {step:,}, learning rate "
            f"{self.rates[bad]:.2g}; lower optimizer.lr, set clipping.norm, use "
            f"train.precision=no, or leave such steps out with train.on_not_finite=skip; the batch is kept in {kept}"
        )

    def _check_weights(self) -> None:
        """Keep weights that are not finite, after a gradient that was not, out of checkpoints.

        Raises:
            BcosError: they are not.
        """
        bad = not_finite(self.setup.network)
        if self.setup.stepper.any_process(bool(bad)):
            raise BcosError(
                f"weights are not finite after epoch {self.progress.epoch + 1}, step {self.progress.step:,} "
                f"({some_of(bad) or 'in another process'}); the checkpoint before is kept; lower optimizer.lr, "
                "set clipping.norm, or use train.precision=no"
            )

    def _keep_batch(self, batch: int, images: Tensor, labels: Tensor, positions: Tensor) -> Path:
        name = f"epoch-{self.progress.epoch + 1:04d}-batch-{batch:06d}-process-{self.accelerator.process_index}"
        path = self.setup.folder.not_finite / f"{name}.safetensors"
        keep_batch(path, images, labels, positions)
        return path

    def _evaluate_epoch(self) -> None:
        """Score the network, keep the best if these images choose, and write the line of the epoch, its last act."""
        setup, progress, accelerator = self.setup, self.progress, self.accelerator
        role, batches, label = setup.splits.role, setup.epoch_batches, f"evaluating on {setup.splits.label}"
        share_buffers(setup)
        plain = scores_of(setup, setup.model if setup.sharded else setup.network, batches, label)
        averaged = None if setup.ema is None else scores_of(setup, setup.ema.module, batches, label)
        self.scores = averaged or plain
        loss = sum(progress.losses) / len(progress.losses) / len(setup.batches)
        values = epoch_line(progress, loss, setup.optimizer.param_groups[0]["lr"], plain, averaged, role)
        values["scored"] = setup.splits.scored
        images = len(setup.batches.stream) * accelerator.num_processes
        values |= {"images_per_second": images / progress.seconds, "seconds": progress.seconds}
        unread = {"": progress.unread, f"{role}_": self.scores.unread}
        for prefix, skipped in unread.items():
            if skipped:
                values[f"{prefix}skipped"] = skipped
                what = f"{skipped:,} {prefix.rstrip('_') or 'training'} images"
                accelerator.print(f"epoch {progress.epoch + 1}: {what} could not be read and were left out")
        if progress.left_out:
            values["steps_left_out"] = progress.left_out
        accelerator.log({k: v for k, v in values.items() if k not in ("epoch", "step", "scored")}, step=progress.step)
        seen = setup.networks[-1]
        if setup.watcher and not setup.watcher.write(seen, progress.epoch + 1, progress.step, accelerator):
            setup.watcher = None
        if accelerator.is_main_process:
            comparable = setup.annealer.is_over(progress.step)  # with what the run ends with
            if role == "val" and comparable and setup.history.is_best(self.scores.accuracy):
                last = setup.checkpoints.last()
                assert last is not None
                setup.checkpoints.keep_best(last)
                values["best"] = True
            setup.history.add(values)
        setup.history.share()
