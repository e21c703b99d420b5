"""One training step: forward, loss, backward, clipping, update."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from timm.data import Mixup  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import Tensor, nn

from bcos_cli.config import GradientClipping, Train
from bcos_cli.processes.group import any_process
from bcos_cli.train.compiled_gradients import wrong_when_compiled
from bcos_cli.train.forward_pass import BufferSnapshot
from bcos_cli.train.optimization import clip_gradients
from bcos_core.errors import BcosError


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Make all that is drawn at random for a batch (stochastic depth, dropout, mixing) a function of these numbers."""
    # A run that is resumed at this batch then draws what the uninterrupted one drew, without any generator's state in
    # the checkpoint. Augmentations have generators of their own, one a sample, in the loader's processes.
    drawn = hash((seed, epoch, batch, rank)) % 2**63
    random.seed(drawn)
    np.random.seed(drawn % 2**32)
    torch.manual_seed(drawn)


@dataclass
class TrainStep:
    """Passes batches of images through the network, and updates it once enough of them are accumulated."""

    train: Train
    clipping: GradientClipping
    mixup: Mixup | None
    encode: Callable[[Tensor], Tensor]
    """Images in [0, 1] → input of the network."""
    model: nn.Module
    """As Accelerate has prepared it."""
    optimizer: AcceleratedOptimizer
    objective: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Outputs, targets and images in [0, 1] → loss."""
    accelerator: Accelerator
    skipped_batch: bool = False
    """Whether the loss of the last batch was not finite, and is left out."""
    skipped_step: bool = False
    """Whether the step that is being made will be left out."""
    _before: BufferSnapshot | None = field(default=None, repr=False)

    @property
    def skips(self) -> bool:
        """Whether steps whose loss or gradient is not finite are left out."""
        return self.train.on_not_finite == "skip"

    @property
    def dtype(self) -> torch.dtype:
        """Of images, and of sums of losses."""
        return torch.float64 if self.train.precision == "float64" else torch.float32

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
                self._before = BufferSnapshot(self.model)
                self.skipped_step = False
            loss = self._loss(images, labels)
            self.skipped_batch = self.skips and not bool(torch.isfinite(loss))
            # All processes leave out the same step: one without a backward pass would keep DDP waiting for its part.
            if self.skips and any_process(self.skipped_batch, loss.device):
                self.skipped_step = True
                loss = torch.zeros_like(loss)
            else:
                self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self._update()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        pixels, targets = self._pixels(images), labels.to(self.accelerator.device, non_blocking=True)
        if self.mixup is not None:
            pixels, targets = self.mixup(pixels, targets)
        x = self._network_input(pixels)
        with self.accelerator.autocast():
            return self.objective(self.model(x), targets, pixels)

    def _pixels(self, images: Tensor) -> Tensor:
        return images.to(self.accelerator.device, non_blocking=True).to(self.dtype) / 255

    def _network_input(self, pixels: Tensor) -> Tensor:
        layout = torch.channels_last if self.train.channels_last else torch.contiguous_format
        return self.encode(pixels).contiguous(memory_format=layout)

    def check_compiled(self, images: Tensor) -> None:
        """Refuse a compiled network that learns something else than the network as it was written.

        Args:
            images: The first batch, 8-bit (N, C, H, W).

        Raises:
            BcosError: naming what differs, in whichever process.
        """
        network = self.accelerator.unwrap_model(self.model)
        wrong = wrong_when_compiled(self.model, network, self._network_input(self._pixels(images)), self.accelerator)
        if any_process(wrong is not None, self.accelerator.device):
            raise BcosError(
                f"with train.precision={self.train.precision} this machine compiles the network wrongly: its gradients "
                f"are not those of the network as it was written ({wrong or 'in another process'}); use "
                "-o train.compile=no, or another precision"
            )

    def _update(self) -> None:
        """Clip the gradients and update the network; or leave it as it was before the step."""
        if not self.skipped_step:
            measure = self.skips and self.accelerator.scaler is None  # a scaler leaves out such steps itself
            norm = clip_gradients(self.accelerator, self.model, self.clipping, measure=measure)
            self.skipped_step = measure and norm is not None and not bool(torch.isfinite(norm))
        if self.skipped_step and self._before is not None:
            self._before.restore()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._before = None
