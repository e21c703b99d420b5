"""Occlusion."""

from dataclasses import dataclass
from typing import ClassVar

import captum.attr
import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Target, as_columns, check_count, class_indices, differentiable, like_target
from bcos_explain.explainers.memory import fit_in_memory

_WINDOWS = 8
"""Default windows are this part of the image's shorter side."""


@dataclass(frozen=True, kw_only=True)
class Occlusion:
    """How far the logit falls when a window is set to zero, averaged over the windows that cover a pixel.

    Zeros are the absence of an image to a network with inverse channels, and the mean image to one that
    standardises.

    Args:
        window: side of the square window, in pixels; None for an eighth of the image's shorter side, so that
            the number of forward passes (225) does not depend on the image's size. The B-cos papers use 5, 9
            and 13.
        stride: step of the window; None for half of it.
        internal_batch_size: images that are passed through the network at once, at least the batch itself;
            halved where memory runs out.

    Returns (N, [T,] H, W), in units of the logit.

    Raises:
        BcosError: a number below 1, a window larger than the image, or a stride larger than the window.

    Source: Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014.
    """

    several_targets: ClassVar[bool] = True
    window: int | None = None
    stride: int | None = None
    internal_batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("internal_batch_size", self.internal_batch_size)

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf, torch.no_grad():
            n, channels, height, width = x.shape
            window = self.window or max(1, min(height, width) // _WINDOWS)
            stride = self.stride or max(1, window // 2)
            if window > min(height, width):
                raise BcosError(f"a window of {window} pixels does not fit into images of {height}×{width}")
            if stride > window:
                raise BcosError(f"a stride of {stride} skips pixels, with windows of {window}; give at most {window}")
            indices = class_indices(model, model(leaf), target)
            columns = as_columns(indices)

            def scores(images: Tensor) -> Tensor:  # windows × images, (P·N, T)
                outputs: Tensor = model(images)
                return outputs.gather(1, columns.repeat(len(images) // n, 1))

            attribution = fit_in_memory(
                lambda at_once: captum.attr.Occlusion(scores).attribute(
                    leaf.detach(),
                    sliding_window_shapes=(channels, window, window),
                    strides=(channels, stride, stride),
                    baselines=0,
                    perturbations_per_eval=at_once // n,
                ),
                self.internal_batch_size,
                least=n,
            )  # (N·T, C, H, W), the same in every channel
            maps = attribution[:, 0].unflatten(0, (n, -1)).to(x.dtype)
            return like_target(maps, indices)
