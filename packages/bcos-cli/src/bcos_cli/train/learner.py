"""A network with all that trains it: optimizer, learning-rate schedule, annealing, moving average, training step."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from bcos_cli.config import Recipe
from bcos_cli.data.loader import Batch
from bcos_cli.train import fsdp
from bcos_cli.train.annealer import Annealer
from bcos_cli.train.checkpoint import EMA, MODEL, load_tensors
from bcos_cli.train.distillation import Objective, Teacher
from bcos_cli.train.forward_pass import undo
from bcos_cli.train.model import prepare_network
from bcos_cli.train.optimization import make_average, make_mixup, make_optimizer, make_schedule
from bcos_cli.train.train_step import TrainStep
from bcos_models import TrainedModel
from bcos_models.convert.annealing import recalibrate_norms


class Learner:
    """A network in training, whose state checkpoints hold.

    Args:
        labels_loss: logits and targets → loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        trained: TrainedModel,
        labels_loss: nn.Module,
        accelerator: Accelerator,
        steps_per_epoch: int,
        *,
        multi_label: bool,
    ) -> None:
        self.recipe, self.trained, self.accelerator = recipe, trained, accelerator
        self.sharded = fsdp.is_sharded(accelerator)
        network, train = trained.model, recipe.train
        if not self.sharded:  # FSDP moves each part to its own device; none need have room for all of it
            network.to(accelerator.device)
        prepare_network(network, recipe.model, train)
        self.annealer = Annealer(recipe.annealing, trained.options, steps_per_epoch)
        self.ema = make_average(network, recipe.ema, train, recipe.schedule.warmup(steps_per_epoch))
        optimizer = make_optimizer(network, recipe.optimizer)
        self.schedule = make_schedule(optimizer, recipe.schedule, recipe.optimizer.lr, train.epochs, steps_per_epoch)
        teacher = Teacher(recipe.distillation, trained, accelerator.device) if recipe.distillation else None
        self.embedding_teacher = teacher if teacher and teacher.options.kind == "embedding" else None
        """The teacher whose outputs are learned instead of classes, if that is the task."""
        self.model: nn.Module
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.step = TrainStep(
            train,
            recipe.clipping,
            make_mixup(recipe.mixing, len(trained.classes), multi_label),
            trained.encode,
            self.model,
            self.optimizer,
            Objective(labels_loss, teacher),
            accelerator,
        )

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
    def whole(self) -> nn.Module:
        """The network that is scored and saved: without DDP around it, but within FSDP, which puts it together."""
        return self.model if self.sharded else self.network

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the layers whose rate is largest: layer-wise decay lowers the others."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def after_step(self, step: int) -> None:
        """Update learning rate, annealing and average, after `step` steps in all."""
        self.schedule.step_update(step)
        for network in self.networks:
            self.annealer.after_step(network, step)
        if self.ema is not None and self.recipe.ema is not None and step % self.recipe.ema.every == 0:
            self.ema.update(self.network, step)

    def share_buffers(self) -> None:
        """Take over the running statistics of the main process, which are those that checkpoints hold."""
        for network in () if self.sharded else self.networks:
            for buffer in network.buffers():
                broadcast(buffer)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return all weights for a checkpoint, gathered from all processes."""
        average = {} if self.ema is None else {EMA: dict(self.ema.module.state_dict())}
        return {MODEL: fsdp.weights_of(self.whole, self.sharded), **average}

    def state(self) -> dict[str, Any]:
        """Return the state of optimizer and gradient scaler for a checkpoint, gathered from all processes."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": fsdp.optimizer_state(self.model, self.optimizer.optimizer, self.sharded),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load(self, checkpoint: Path, state: dict[str, Any], step: int) -> None:
        """Restore what :meth:`weights` and :meth:`state` put into a checkpoint after `step` steps."""
        fsdp.load_weights_into(self.whole, load_tensors(checkpoint, MODEL), self.sharded)
        if self.ema is not None:
            fsdp.load_weights_into(self.ema.module, load_tensors(checkpoint, EMA), False)
        fsdp.load_optimizer_state(self.model, self.optimizer.optimizer, state["optimizer"], self.sharded)
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.schedule.step_update(step)
        for network in self.networks:
            self.annealer.set(network, step)

    def finish(self, best: Path | None, batches: Iterable[Batch]) -> None:
        """Make ``trained.model`` the network that the run ends with: as it was written, and in float32.

        Args:
            best: checkpoint whose weights it takes; None for those it has.
            batches: from which batch norms measure their statistics anew, if any.
        """
        network = self.network
        undo(network)
        if self.ema is not None:
            network.load_state_dict(self.ema.module.state_dict())
        if best is not None:
            fsdp.load_weights_into(network, load_tensors(best, EMA if self.ema is not None else MODEL), False)
        if self.recipe.train.recalibrate_batches:
            pixels = (images.to(self.accelerator.device) for images, _, _ in batches)
            recalibrate_norms(network, (self.trained.encode(x).to(self.step.dtype) for x in pixels))
            self.share_buffers()
        self.annealer.finish(network)
        network.float()  # also where it was trained in float64
        # Accelerate's wrapper computes in mixed precision; scores and explanations must be those of the saved weights.
        self.trained.model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).eval()

    def save_network(self, path: Path) -> None:
        """Write the network's weights and description, gathered from all processes."""
        weights = fsdp.weights_of(self.model, sharded=True) if self.sharded else {}
        if self.accelerator.is_main_process and self.sharded:
            self.trained.save_state(path, weights)
        elif self.accelerator.is_main_process:
            self.trained.save(path, self.network)
        self.accelerator.wait_for_everyone()
