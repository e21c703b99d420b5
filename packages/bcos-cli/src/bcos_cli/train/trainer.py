"""Training: epochs of steps, an evaluation after each, checkpoints in between, and the network at the end."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor, nn

from bcos_cli import console
from bcos_cli.config import Recipe, load_recipe
from bcos_cli.config.locations import with_absolute_paths
from bcos_cli.config.trust import trusts_runs
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import Batches, images_at
from bcos_cli.data.reading import Reading
from bcos_cli.evaluate.classification import Scores, classify
from bcos_cli.evaluate.samplers import SampledImages
from bcos_cli.messages import tell
from bcos_cli.processes.group import any_process, total
from bcos_cli.processes.signals import EXIT_STATUS, Preempted, Stopper
from bcos_cli.train import fsdp
from bcos_cli.train.accelerator import make_accelerator, start_trackers
from bcos_cli.train.batch_size import check_mixing, plan_batches, with_found_values
from bcos_cli.train.best_epoch import should_stop
from bcos_cli.train.checkpoint import Checkpoints, Progress, load_progress
from bcos_cli.train.coarse_images import coarse_images
from bcos_cli.train.compilation import with_compilation
from bcos_cli.train.distillation import Agreement, agreement, output_names
from bcos_cli.train.forward_pass import compiling
from bcos_cli.train.history import History, epoch_line
from bcos_cli.train.learner import Learner
from bcos_cli.train.loaders import Loaders
from bcos_cli.train.losses import LossOptions, make_loss, training_loss
from bcos_cli.train.max_batch import with_max_batch
from bcos_cli.train.model import build, train_mode, with_pixels
from bcos_cli.train.nonfinite_loss import RunningLoss, check_skipped, check_weights, keep_batch, loss_error
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.sample_explanations import SampleExplanations
from bcos_cli.train.train_step import seed_batch
from bcos_cli.train.trial import check_precision, try_plugins
from bcos_cli.train.validation_split import Splits, with_validation
from bcos_core.errors import BcosError
from bcos_models import TrainedModel, load_trained
from bcos_models.weights import check_finite

LOOK_STEPS = 50
"""Batches between looks at the loss on an accelerator; each look waits for it."""
ASK_STEPS = 10
"""Steps after which processes on accelerators ask each other whether one was told to end."""


@dataclass
class TrainingResult:
    """A finished run."""

    trained: TrainedModel
    scores: Scores | Agreement | None
    """On the images that are scored at the end; None where training has not scored the network on them."""
    index: ShardIndex
    data: str
    recipe: Recipe
    """As ``config.yaml`` has it, which names what chooses."""


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> TrainingResult:
    """Train the network of `recipe`; arguments and errors are those of :func:`trained`."""
    with trained(recipe, out, resume=resume) as result:
        return result


@contextmanager
def trained(recipe: Recipe, out: Path, *, resume: bool = False) -> Iterator[TrainingResult]:
    """Train the network of `recipe`, on every process that was started.

    Until the end of the block no other process can train into the folder, and a signal that asks for an early end ends
    the block at once.

    Args:
        resume: continue from the last checkpoint in `out`.

    Raises:
        BcosError: a recipe that does not fit the data or the number of processes, a folder in use, or a loss
            that is not finite.
        Preempted: a signal, or ``train.max_hours``, asked for an early end; ``--resume`` continues the run.
    """
    index = load_index(recipe.data.location)
    recipe = with_absolute_paths(recipe, out)
    data = recipe.data.location
    if len(index.classes) < 2:
        raise BcosError(f"the shards have the class {index.classes[0]!r} alone; a classifier needs at least two")
    began = time.monotonic()
    accelerator = make_accelerator(recipe.train, out)
    resume = broadcast_object_list([resume])[0]  # another process may have looked later, when there was a run
    folder = RunFolder(out)
    before = load_recipe(str(folder.config), needs=()) if resume and folder.config.exists() else None  # compared
    recipe = with_found_values(with_validation(with_pixels(recipe, index), index, before), before)
    for with_value in (with_max_batch, with_compilation):  # values that the run finds out
        recipe = with_value(recipe, index, accelerator)
    accelerator.gradient_accumulation_steps = plan_batches(recipe.train, accelerator.num_processes).accumulate
    with ExitStack() as stack:
        if accelerator.is_main_process:
            folder.check(recipe, resume=resume)
        trainer = Trainer(recipe, index, folder, accelerator, began)  # what it refuses leaves no trace in the folder
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                stack.enter_context(folder.opened(recipe, resume=resume))
        folder.wait_until_visible()
        stack.enter_context(trainer.stopper.listening())
        stack.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        with trainer.batches, trainer.epoch_batches:  # the loader processes end before the trained network is scored
            scores = trainer.run(resume)
        with trainer.ended_at_once():
            yield TrainingResult(trainer.trained, scores, index, data, recipe)


@dataclass
class Durations:
    """How long, in seconds, parts of the training have taken, for a run whose time is limited."""

    every: int
    """Steps between two questions whether it is to end."""
    save: float = 0.0
    """Of the longest checkpoint."""
    evaluation: float = 0.0
    """Of the last epoch's scores."""
    step: float = 0.0
    """Of the longest step."""
    last: float | None = None
    """When the last step ended; None before the first of an epoch."""

    def until_checkpoint(self) -> float:
        """Return what a checkpoint after the next question will have taken; to be called after every step."""
        now = time.perf_counter()
        if self.last is not None:
            self.step = max(self.step, now - self.last)
        self.last = now
        return self.every * self.step + 2 * self.save


class Trainer:
    """The course of a run in one process; refuses a recipe that does not fit the data, network or processes."""

    def __init__(
        self, recipe: Recipe, index: ShardIndex, folder: RunFolder, accelerator: Accelerator, began: float | None = None
    ) -> None:
        self.recipe, self.index, self.folder, self.accelerator = recipe, index, folder, accelerator
        train, self.device = recipe.train, accelerator.device
        if fsdp.is_sharded(accelerator):
            fsdp.check_sharded(recipe)
        self.splits = Splits.of(recipe.data, index)
        self.history = History(folder)
        self.checkpoints = Checkpoints(folder.checkpoints, train.keep_checkpoints)
        self.plan = plan_batches(train, accelerator.num_processes)
        check_mixing(self.plan, recipe.mixing)
        set_seed(train.seed)
        classes = output_names(recipe.distillation, index)
        said = [console.err.print] if accelerator.is_main_process else []
        self.trained = build(recipe, classes, *said)
        self.loaders = Loaders(recipe.data, index, self.splits, self.trained.input, train.seed, accelerator)
        self.batches = self.loaders.training(self.plan)
        self.epoch_batches = self.loaders.epoch(recipe.evaluation.batch_size)
        self.steps_per_epoch = len(self.batches) // self.plan.accumulate
        loss = training_loss(train, index, self.splits.train).to(self.device)
        if not fsdp.is_sharded(accelerator):
            self.trained.model.to(self.device)
            try_plugins(recipe, self.trained, loss, multi_label=index.multi_label)
            check_precision(self.trained, accelerator)
        self.learner = Learner(
            recipe, self.trained, loss, accelerator, self.steps_per_epoch, multi_label=index.multi_label
        )
        asks_often = self.device.type == "cpu" or accelerator.num_processes == 1
        every = 1 if asks_often else ASK_STEPS
        self.stopper = Stopper(lambda flag: any_process(flag, self.device), every, train.max_hours, began)
        self.durations = Durations(every)
        self.sample_explanations = self._sample_explanations()
        self.progress = Progress()
        self.is_compiled = train.compile != "no"
        self.compiled_for: set[str] = set()
        """Stages of annealing that the network has been compiled for."""
        self.scores: Scores | Agreement | None = None

    def run(self, resume: bool) -> Scores | Agreement | None:
        """Train to the last epoch, from the first or from the last checkpoint; return the final scores, if any."""
        recipe, epochs = self.recipe, self.recipe.train.epochs
        if self.accelerator.is_main_process:
            coarse = coarse_images(recipe.data.location, self.index, self.splits.train, self.trained.input.size)
            for text in (*self.splits.summary(recipe.train, recipe.early_stopping, self.index), coarse):
                if text is not None:
                    console.err.print(text)
        if resume:
            self.resume()
            if self.accelerator.is_main_process:
                self.folder.resume(recipe)
        start_trackers(self.accelerator, recipe)
        comparable = self.learner.annealer.is_over
        while self.progress.epoch < epochs and not should_stop(self.history.lines, recipe.early_stopping, comparable):
            if self.progress.batch < len(self.batches):
                self.train_epoch()
                as_slow_as_training = self.progress.seconds * len(self.epoch_batches.stream) / len(self.batches.stream)
                self._end_if_asked(self.durations.evaluation or as_slow_as_training)
            if not self.history.has(self.progress.epoch + 1):
                self.evaluate_epoch()
                if self.progress.epoch + 1 < epochs:
                    self._end_if_asked()
            self.progress = Progress(self.progress.epoch + 1, step=self.progress.step, left_out=self.progress.left_out)
        return self.finish()

    def train_epoch(self) -> None:
        """Train on the batches of an epoch that are left; then write a checkpoint."""
        progress, train, step = self.progress, self.recipe.train, self.learner.step
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.learner.model.train()
        train_mode(self.learner.network, self.recipe.model, train.norm_statistics)
        self.loss = RunningLoss(self.device, progress.losses[rank] if progress.losses else 0.0, step.dtype)
        self.rates = dict[int, float]()
        self.since, self.durations.last = time.perf_counter(), None
        look = 1 if self.device.type == "cpu" else LOOK_STEPS
        label = f"epoch {progress.epoch + 1}/{train.epochs}"
        with console.counted(label, len(self.batches), self.accelerator.is_main_process) as counter:
            counter.advance(progress.batch)
            for images, labels, positions in self.batches.epoch(progress.epoch, progress.batch):
                seed_batch(train.seed, progress.epoch, progress.batch, rank)
                self.rates[progress.batch] = self.learner.lr
                self.loss.add(self._run(images, labels), progress.batch)
                if step.skipped_batch:
                    self._keep_batch(progress.batch, images, labels, positions)
                progress.batch += 1
                counter.advance(images=len(images) * world, note=self._note())
                if progress.batch % look == 0:
                    self._check_loss()
                if self.accelerator.sync_gradients:
                    self.after_step()
        progress.unread = total(self.batches.stream.skipped, self.device)
        self.save()

    def _run(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch.

        A network is compiled anew once B grows, and once it has grown: the first batch of each graph is checked, and it
        is said how long the first of all took.
        """
        stage = self.learner.annealer.stage(self.progress.step)
        if not self.is_compiled or stage in self.compiled_for:
            return self.learner.step.run(images, labels)
        is_first, start = not self.compiled_for, time.perf_counter()
        self.compiled_for.add(stage)
        with compiling(self.recipe.train.compile):
            if not (self.learner.sharded or self.recipe.train.gradient_checkpointing):  # else there is no room for it
                self.learner.step.check_compiled(images)
            loss = self.learner.step.run(images, labels)
        if is_first and self.accelerator.is_main_process:
            seconds = time.perf_counter() - start
            console.err.print(f"train.compile: the first batch took {seconds:.0f} s, compiling included")
        return loss

    def _note(self) -> str | None:
        batches = self.progress.batch
        return f"loss {float(self.loss.total) / batches:.4f}" if batches % LOOK_STEPS == 0 else None

    def after_step(self) -> None:
        """Count the step and update the learner; write a checkpoint, or end early, when it is time."""
        progress, train = self.progress, self.recipe.train
        progress.step += 1
        if self.learner.step.skipped_step:
            progress.left_out += 1
            where = f"at epoch {progress.epoch + 1}, step {progress.step:,}"
            check_skipped(progress.left_out, train.max_not_finite, where)
        self.learner.after_step(progress.step)
        if progress.batch == len(self.batches):
            return  # there is a checkpoint at the end of an epoch
        if self.stopper.is_due(progress.step, self.durations.until_checkpoint()):
            self._end(self.save())
        if train.checkpoint_steps and progress.step % train.checkpoint_steps == 0:
            self.save()

    def evaluate_epoch(self) -> None:
        """Score the network, keep the best if these images choose, and write the line of the epoch."""
        progress, learner, accelerator, role = self.progress, self.learner, self.accelerator, self.splits.role
        start = time.perf_counter()
        learner.share_buffers()
        label = f"evaluating on {self.splits.label}"
        plain = self.score(learner.whole, self.epoch_batches, label)
        averaged = None if learner.ema is None else self.score(learner.ema.module, self.epoch_batches, label)
        self.scores = averaged or plain
        self.durations.evaluation = time.perf_counter() - start
        if isinstance(self.scores, Scores) and self.scores.collapse is not None and accelerator.is_main_process:
            tell(f"epoch {progress.epoch + 1}: {self.scores.collapse}")
        loss = sum(progress.losses) / len(progress.losses) / len(self.batches)
        values = epoch_line(progress, loss, learner.lr, plain, averaged, role)
        images = len(self.batches.stream) * accelerator.num_processes
        values |= {"images_per_second": images / progress.seconds, "seconds": progress.seconds}
        for name, kind in (("skipped", "training"), (f"{role}_skipped", role)):
            if name in values and accelerator.is_main_process:
                what = f"{values[name]:,} {kind} images could not be read and were left out"
                console.err.print(f"epoch {progress.epoch + 1}: {what}")
        accelerator.log({k: v for k, v in values.items() if k not in ("epoch", "step")}, step=progress.step)
        if self.sample_explanations and not self.sample_explanations.write(
            learner.networks[-1], progress.epoch + 1, progress.step, accelerator
        ):
            self.sample_explanations = None
        values["scored"] = self.splits.scored
        if accelerator.is_main_process:
            comparable = learner.annealer.is_over(progress.step)  # with the network that the run ends with
            if role == "val" and comparable and self.history.is_best(self.scores.accuracy):
                last = self.checkpoints.last()
                assert last is not None
                self.checkpoints.keep_best(last)
                values["best"] = True
            self.history.add(values)
        self.history.share()

    def score(self, network: nn.Module, batches: Batches, label: str = "evaluating") -> Scores | Agreement:
        """Score a network in all processes together; one without classes beside its teacher."""
        options: dict[str, Any] = {"device": self.device, "label": label, "together": self.learner.sharded}
        options["show_progress"] = self.accelerator.is_main_process
        if self.learner.embedding_teacher is not None:
            return agreement(self.learner.embedding_teacher, network, batches, **options)
        loss = make_loss(self.recipe.train.loss, LossOptions(evaluation=True))
        return classify(self.trained, network, batches, loss, **options)

    def save(self) -> Path | None:
        """Write a checkpoint, all processes together; in the main one return where it is.

        Raises:
            BcosError: a loss or weights that are not finite, or no room; the checkpoint before is still there.
        """
        progress, accelerator = self.progress, self.accelerator
        start = time.perf_counter()
        self._check_loss()
        check_weights(self.learner.network, progress.epoch + 1, progress.step, self.device)
        now = time.perf_counter()
        progress.seconds += now - self.since
        self.since = now
        progress.losses = gather_object([float(self.loss.total)])
        weights, state = self.learner.weights(), self.learner.state()
        state |= {"world": accelerator.num_processes, "data": self.index.fingerprint}
        path = None
        if accelerator.is_main_process:
            path = self.checkpoints.save(progress, weights, state, self.trained.metadata())
        accelerator.wait_for_everyone()
        self.durations.save = max(self.durations.save, time.perf_counter() - start)
        return path

    def resume(self) -> None:
        """Go on from the last checkpoint, or from the start where there is none; every process reads the folder.

        Raises:
            BcosError: it is damaged, or of a run on other data.
        """
        if self.accelerator.is_main_process:
            self.checkpoints.clean()
        self.accelerator.wait_for_everyone()
        last = self.checkpoints.last()
        if last is not None:
            self.progress, state = load_progress(last)
            if state["data"] != self.index.fingerprint:
                raise BcosError(
                    f"the shards at {self.recipe.data.path!r} are not those the run was started with; "
                    "give those, or start a new run with --out"
                )
            self.learner.load(last, state, self.progress.step)
            self._redistribute(state["world"])
        # Where the last checkpoint was removed as damaged, there are lines of epochs that are trained again: they go.
        if self.accelerator.is_main_process:
            self.history.keep(self.progress.epoch + (self.progress.batch >= len(self.batches)))
        self.history.share()

    def _redistribute(self, before: int) -> None:
        """Go on with another number of processes than `before`, if it is another: correctly, but not identically."""
        progress, now = self.progress, self.accelerator.num_processes
        if before == now:
            return
        batch = (progress.step - progress.epoch * self.steps_per_epoch) * self.plan.accumulate
        progress.redistribute(before, now, batch)
        if self.accelerator.is_main_process:
            console.err.print(
                f"resumed with {now} processes instead of {before}: images come in another order from here on, so that "
                "the results will not be identical to those of an uninterrupted run"
            )

    def finish(self) -> Scores | Agreement | None:
        """Save the network that the run ends with.

        Returns:
            Scores on the images of the end, where epochs were scored on them too. Where others choose, they are left to
            the one evaluation of the finished run, except for a network without classes, which has none.

        Raises:
            BcosError: weights that are not finite, which are not saved.
        """
        train, learner = self.recipe.train, self.learner
        if not learner.sharded:
            some = islice(self.batches.epoch(train.epochs), train.recalibrate_batches)  # of an epoch that never was
            learner.finish(self.checkpoints.best() if train.restore_best else None, some)
        check_finite(learner.network, agree=lambda count: total(count, self.device))
        if learner.embedding_teacher is None and self.splits.role == "val":
            scores = None
        elif self.scores and not (learner.embedding_teacher or train.restore_best or train.recalibrate_batches):
            scores = self.scores
        else:
            model = learner.model if learner.sharded else self.trained.model
            with self.loaders.final(self.recipe.evaluation.batch_size) as batches:
                scores = self.score(model, batches)
        learner.save_network(self.folder.weights)
        if learner.sharded:  # no process has all of the network; each reads it from the file
            self.trained = load_trained(str(self.folder.weights), trust=trusts_runs())
        return scores

    @contextmanager
    def ended_at_once(self) -> Iterator[None]:
        """Let a signal end the block at once: it scores the trained network, and a resumed run scores it again."""
        self._end_if_asked()
        try:
            with self.stopper.at_once():
                yield
        except Preempted:
            self._note_end(f"{self.stopper.received} while the trained network was scored")
            raise

    def _end_if_asked(self, needed: float = 0.0) -> None:
        if self.stopper.asked(needed):
            self._end(self.checkpoints.last())

    def _end(self, checkpoint: Path | None) -> None:
        received = self.stopper.received or "a signal to another process"
        self._note_end(f"{received} after step {self.progress.step:,}, with the checkpoint {checkpoint}")
        raise Preempted

    def _note_end(self, reason: str) -> None:
        if self.accelerator.is_main_process:
            self.folder.preempted.touch()
            console.err.print(f"ended by {reason}; continue with --resume (exit status {EXIT_STATUS})")

    def _check_loss(self) -> None:
        """End the run in all processes if the loss of one was not finite; that one writes its batch to a file."""
        bad = None if self.learner.step.skips else self.loss.first_bad()
        if self.learner.step.skips or not any_process(bad is not None, self.device):
            return
        if bad is None:
            raise BcosError("the loss of another process is not finite; it says which one")
        # An accelerator's losses are looked at every LOOK_STEPS batches, when this one is long gone. It depends on its
        # seed, epoch and number alone, so that a second loader makes it again.
        with self.loaders.training(self.plan) as batches:
            batch = next(batches.epoch(self.progress.epoch, bad))
        step = self.progress.epoch * self.steps_per_epoch + bad // self.plan.accumulate + 1
        raise loss_error(self.progress.epoch + 1, step, self.rates[bad], self._keep_batch(bad, *batch))

    def _keep_batch(self, batch: int, images: Tensor, labels: Tensor, positions: Tensor) -> Path:
        name = f"epoch-{self.progress.epoch + 1:04d}-batch-{batch:06d}-process-{self.accelerator.process_index}"
        path = self.folder.not_finite / f"{name}.safetensors"
        keep_batch(path, images, labels, positions)
        return path

    def _sample_explanations(self) -> SampleExplanations | None:
        data, count, split = self.recipe.data, self.recipe.train.explained_images, self.splits.final
        if not count or self.learner.sharded or self.learner.embedding_teacher or not self.accelerator.is_main_process:
            return None
        positions = SampledImages(count, self.index.samples(split)).positions
        found = images_at(data.location, self.index, split, self.trained.input, positions, Reading.of(data))
        images = [image for image, _ in found.values()]
        return SampleExplanations(self.trained, self.folder, torch.stack(images)) if images else None
