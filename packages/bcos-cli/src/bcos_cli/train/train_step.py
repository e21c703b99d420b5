"""One batch: forward, loss, backward, clipping, update."""

import random
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from timm.data import Mixup  # type: ignore[attr-defined] # reason: timm exports implicitly
from timm.utils import adaptive_clip_grad  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import Tensor, nn

from bcos_cli.config import Mixing, Recipe
from bcos_cli.train.finite import Buffers
from bcos_models import TrainedModel


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Make all that is drawn at random for a batch a function of these numbers.

    Of stochastic depth, dropout and mixing, that is; augmentations have generators of their own.
    """
    drawn = hash((seed, epoch, batch, rank)) % 2**63
    random.seed(drawn)
    np.random.seed(drawn % 2**32)
    torch.manual_seed(drawn)


def make_mixing(config: Mixing, num_classes: int, multi_label: bool) -> Mixup | None:
    """Return timm's mixup and CutMix, if the recipe wants them."""
    if not config.mixup and not config.cutmix:
        return None
    return Mixup(  # type: ignore[no-untyped-call] # reason: timm's
        config.mixup,
        config.cutmix,
        prob=config.probability,
        label_smoothing=0.0,  # which losses do
        num_classes=num_classes,
        multi_label=multi_label,
    )


class Stepper:
    """Passes batches of images through the network, and updates it.

    Args:
        recipe: says how.
        trained: what the network sees.
        model: the network, as Accelerate has prepared it.
        optimizer: as Accelerate has prepared it.
        objective: outputs, targets and images in [0, 1] → loss.
        accelerator: of this process.
        multi_label: whether targets are (N, K).
    """

    def __init__(
        self,
        recipe: Recipe,
        trained: TrainedModel,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        objective: Callable[[Tensor, Tensor, Tensor], Tensor],
        accelerator: Accelerator,
        *,
        multi_label: bool,
    ) -> None:
        self.trained = trained
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.accelerator = accelerator
        self.clipping = recipe.clipping
        self.skips = recipe.train.on_not_finite == "skip"
        self.dtype = torch.float64 if recipe.train.precision == "float64" else torch.float32
        self.format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.mixing = make_mixing(recipe.mixing, len(trained.classes), multi_label)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._before: Buffers | None = None
        self.left_out_batch = False
        """Whether the loss of the last batch was not finite."""
        self.left_out_step = False
        """Whether the step that is being made is to be left out."""

    def any_process(self, flag: bool) -> bool:
        """Whether it is so in any process; all of them must ask."""
        if self.accelerator.num_processes == 1:
            return flag
        counted: Tensor = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device))
        return bool(counted > 0)

    def run(self, images: Tensor, labels: Tensor) -> Tensor:
        """Pass a batch through the network, and update it if it is the last of those that are accumulated.

        Args:
            images: 8-bit (N, C, H, W).
            labels: (N,) or (N, K).

        Returns:
            The loss, detached.
        """
        with self.accelerator.accumulate(self.model):
            if self.skips and self._before is None:
                self._before = Buffers(self.model)
                self.left_out_step = False
            loss = self._loss(images, labels)
            self.left_out_batch = self.skips and not bool(torch.isfinite(loss))
            if self.skips and self.any_process(self.left_out_batch):
                self.left_out_step = True
                loss = torch.zeros_like(loss)
            else:
                self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                if not self.left_out_step:
                    self._clip()
                self._finish()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        device = self.accelerator.device
        pixels = images.to(device, non_blocking=True).to(self.dtype) / 255
        targets = labels.to(device, non_blocking=True)
        if self.mixing is not None:
            pixels, targets = self.mixing(pixels, targets)
        x = self.trained.encode(pixels).contiguous(memory_format=self.format)
        with self.accelerator.autocast():
            return self.objective(self.model(x), targets, pixels)

    def _clip(self) -> None:
        clipping, scaler = self.clipping, self.accelerator.scaler
        if clipping.norm is not None or (self.skips and scaler is None):
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), clipping.norm or float("inf"))
            if self.skips and scaler is None and norm is not None and not bool(torch.isfinite(norm)):
                self.left_out_step = True
        if clipping.adaptive is not None:
            if clipping.norm is None:  # else they are unscaled, which may be done once
                self.accelerator.unscale_gradients()
            adaptive_clip_grad(self.parameters, clipping.adaptive, clipping.adaptive_eps)  # type: ignore[no-untyped-call] # reason: timm's

    def _finish(self) -> None:
        """Update the network; or leave it as it was before the step."""
        if self.left_out_step and self._before is not None:
            self._before.restore()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._before = None
