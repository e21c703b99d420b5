"""The evaluation loop: every image of a split passes through a network once, over all processes together."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcos_cli import console
from bcos_cli.data.loader import Batches
from bcos_cli.explain.inference import blank_input, for_inference
from bcos_cli.processes.group import largest, total
from bcos_core.errors import BcosError
from bcos_models import TrainedModel
from bcos_models.weights import check_finite

Update = Callable[[Tensor, Tensor, Any, Tensor], None]
"""Called with a batch: 8-bit images (N, C, H, W) on the CPU, labels, positions in the split (or
:class:`bcos_cli.data.stream.Place`), outputs (N, K)."""


@dataclass(frozen=True)
class ImageCount:
    """Images of a split, of all processes together."""

    read: int
    unread: int
    """Images that could not be read and were left out."""
    per_second: float


def run_network(
    trained: TrainedModel,
    model: nn.Module,
    batches: Batches,
    update: Update,
    *,
    device: torch.device,
    show_progress: bool = True,
    label: str = "evaluating",
    together: bool = False,
) -> ImageCount:
    """Call `update` with the outputs of `model`, in eval mode, for every batch of this process.

    Args:
        trained: says how the network takes its input.
        model: not wrapped for distributed training, since processes may have different numbers of batches.
        label: text beside the progress bar.
        together: pass as many batches through the network in every process, because each holds a part of it.

    Raises:
        BcosError: an image that cannot be read or, where such are skipped, none that can; weights or outputs that are
            not finite, whose scores would mean nothing.
    """
    check_finite(model, agree=lambda count: total(count, device))
    was_training = model.training
    model.eval()
    steps = largest(len(batches), device) if together else 0
    steps_done = images_done = 0
    bad = torch.zeros((), dtype=torch.int64, device=device)
    start = time.perf_counter()
    blank = blank_input(trained, device)
    network = model if together else for_inference(model, blank)
    no_gradient = torch.no_grad if together else torch.inference_mode  # FSDP keeps tensors of the first pass
    with no_gradient(), console.counted(label, len(batches), show_progress) as counter:
        for images, labels, positions in batches.epoch(0):
            x = trained.encode(images.to(device, non_blocking=True)).to(blank.dtype)
            outputs = network(x)
            bad += (~torch.isfinite(outputs)).any(1).sum()
            # a process that stopped here would leave the others waiting: all refuse together, after the loop
            update(images, labels.to(device, non_blocking=True), positions, outputs.nan_to_num())
            steps_done += 1
            images_done += len(images)
            counter.advance(images=len(images))
        for _ in range(steps - steps_done):
            model(blank)
    model.train(was_training)
    return _count(images_done, int(bad), batches, device, start)


def _count(images: int, bad: int, batches: Batches, device: torch.device, start: float) -> ImageCount:
    read, unread = total(images, device), total(batches.stream.skipped, device)
    if read == 0:
        raise BcosError(f"none of {unread:,} images could be read; check them with: bcos shards verify")
    if bad := total(bad, device):
        raise BcosError(
            f"the outputs of the network are infinite or not a number for {bad:,} of {read:,} images, though its "
            "weights are finite: there is nothing to score; train it again with a lower optimizer.lr or in float32"
        )
    return ImageCount(read, unread, read / (time.perf_counter() - start))
