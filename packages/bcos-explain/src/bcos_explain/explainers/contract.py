"""What every explainer promises, and the checks that ours share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.mode import check_deterministic
from bcos_core.targets import class_indices as class_indices_of

Target = int | Tensor | None


class Explainer(Protocol):
    """Attributes an output of a network to its input.

    An explainer changes nothing: neither the input, its ``.grad`` or the parameters' ``.grad``, nor the mode
    and buffers of the model. It is deterministic, and works under ``torch.no_grad`` and
    ``torch.inference_mode``. Explainers may have an attribute ``exact``: whether attributions plus a known
    bias equal the explained logit.
    """

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain one output for each input.

        Args:
            model: in eval mode, from (N, C, H, W) to logits (N, K).
            x: (N, C, H, W), encoded as the network expects it.
            target: the explained class: None for the predicted one, an integer for all, or (N,) for each
                input.

        Returns:
            (N, C, H, W), or (N, H, W) for methods that do not tell channels apart; detached, owning its
            memory.

        Raises:
            BcosError: an input, a target or a model that cannot be explained.
        """


def spatial_map(attribution: Tensor) -> Tensor:
    """(N, H, W) from an explainer's result: channels are summed.

    Raises:
        BcosError: a result of another rank.
    """
    if attribution.ndim == 4:
        return attribution.sum(1)
    if attribution.ndim == 3:
        return attribution
    raise BcosError(f"an attribution must be (N, C, H, W) or (N, H, W), got shape {tuple(attribution.shape)}")


@contextmanager
def differentiable(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Record gradients inside the block, whatever the caller's mode; gives a copy of x to differentiate by.

    Raises:
        BcosError: x is no batch of images, or the model is in train mode where that matters.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise BcosError(f"explainers need a floating point tensor, got {kind}; convert images to floats in [0, 1]")
    if x.ndim != 4 or x.numel() == 0:
        raise BcosError(
            f"explainers need a batch of images (N, C, H, W), got shape {tuple(x.shape)}; use x[None] for one image"
        )
    check_deterministic(model)
    with torch.inference_mode(False), torch.enable_grad():
        yield x.detach().clone().requires_grad_()


def class_indices(logits: Tensor, target: Target) -> Tensor:
    """Class of each input, (N,), that `target` means.

    Raises:
        BcosError: outputs that are not (N, K), a target of another type or shape, or out of range.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BcosError(f"explainers need a model with outputs (N, K), this one gives {got}")
    indices = class_indices_of(logits, target)
    if indices.ndim != 1:
        raise BcosError(f"explainers take one target an input, got shape {tuple(indices.shape)}")
    return indices


def class_scores(logits: Tensor, target: Target) -> Tensor:
    """Logit of the target class of each input, (N,)."""
    return logits.gather(1, class_indices(logits, target)[:, None])[:, 0]
