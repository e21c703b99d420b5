"""What every explainer promises, and the checks that ours share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bcos_core import BcosError, Explanation
from bcos_core.errors import first_line
from bcos_core.forward import check_input
from bcos_core.mode import check_deterministic
from bcos_core.precision import other_precision
from bcos_core.targets import Classes, with_indices
from bcos_core.targets import Target as OutputTarget
from bcos_core.targets import class_indices as class_indices_of
from bcos_explain.explainers.remarks import remark

Target = Classes

_ROUNDING = 16
"""A map is rounding if it is below this many times the rounding of the parts that it is the sum of."""


class Explainer(Protocol):
    """Attributes an output of a network to its input.

    An explainer changes nothing: neither the input, its ``.grad`` or the parameters' ``.grad``, nor the mode,
    buffers and hooks of the model, so that several threads may explain the same model. It is deterministic
    (those that draw at random have a `seed`), an image's attribution does not depend on the others of its
    batch, and it works under ``torch.no_grad`` and ``torch.inference_mode``. Explainers may have an attribute
    ``exact``: whether attributions plus a known bias equal the explained logit, and an attribute
    ``several_targets``: whether `target` may be (N, T), which is what makes one forward pass serve all of
    them. Call :func:`bcos_explain.explainers.attribute` to have several targets explained by any explainer.
    Where a method falls back, is incomplete or cancels, it says so with :func:`bcos_explain.explainers.remarks.remark`.
    """

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain outputs for each input.

        Args:
            model: in eval mode, from (N, C, H, W) to logits (N, K).
            x: (N, C, H, W), encoded as the network expects it.
            target: the explained class: None for the predicted one, an integer for all, (N,) for each input,
                or (N, T) for several of each input; names instead of integers where the model has
                ``class_names``.

        Returns:
            (N, [T,] C, H, W), or (N, [T,] H, W) for methods that do not tell channels apart; T is there where
            `target` is (N, T). Detached, owning its memory.

        Raises:
            BcosError: an input, a target or a model that cannot be explained.
        """


@runtime_checkable
class LinearMapExplainer(Explainer, Protocol):
    """An explainer that reads off the dynamic linear map W itself, so that there is a picture of W and a receipt."""

    def explanation(
        self, model: nn.Module, x: Tensor, target: OutputTarget = None, *, probe: bool | None = None
    ) -> Explanation:
        """Explain outputs exactly, in one forward pass; arguments as of :func:`bcos_core.explain`."""


def spatial_map(attribution: Tensor) -> Tensor:
    """(N, H, W) from an explainer's result: channels are summed; what cancels to rounding is zero.

    Raises:
        BcosError: a result of another rank.
    """
    if attribution.ndim == 4:
        return without_rounding(attribution.sum(1), attribution.abs().sum(1))
    if attribution.ndim == 3:
        return without_rounding(attribution, attribution.abs())
    raise BcosError(f"an attribution must be (N, C, H, W) or (N, H, W), got shape {tuple(attribution.shape)}")


def without_rounding(maps: Tensor, parts: Tensor) -> Tensor:
    """Set maps to zero that are only the rounding of their parts; remarks name those, and maps that were zero.

    Args:
        maps: (..., H, W), sums.
        parts: (..., H, W), the sums of the absolute values of what was added.
    """
    largest, of_parts = maps.abs().amax((-2, -1)), parts.amax((-2, -1))
    cancelled = (largest <= _ROUNDING * torch.finfo(maps.dtype).eps * of_parts) & (of_parts > 0)
    if bool(cancelled.any()):
        remark("the map is zero: its parts cancel, up to rounding", cancelled)
        maps = maps.masked_fill(cancelled[..., None, None], 0)
    if bool((of_parts == 0).any()):
        remark("the map is zero everywhere: the method found nothing for this class", of_parts == 0)
    return maps


@contextmanager
def differentiable(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Record gradients inside the block, whatever the caller's mode; gives a copy of x to differentiate by.

    Raises:
        BcosError: x is not a batch of images, or the model is in train mode where that matters.
    """
    check_input(x, "an explainer")
    if x.ndim != 4:
        raise BcosError(
            f"an explainer needs images (N, C, H, W), got shape {tuple(x.shape)}; use x[None] for one image"
        )
    check_deterministic(model)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            yield x.detach().clone().requires_grad_()
        except RuntimeError as reason:
            cure = None if isinstance(reason, torch.OutOfMemoryError) else other_precision(model, x)
            if cure is None:
                raise
            raise BcosError(f"{first_line(reason)}: {cure}") from reason


def class_indices(model: nn.Module, logits: Tensor, target: Target) -> Tensor:
    """Classes that `target` means, (N,) or (N, T).

    Raises:
        BcosError: outputs that are not (N, K), a target of another type or shape, out of range, or a name that is not
            among the model's ``class_names``.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BcosError(f"explainers need a model with outputs (N, K), this one gives {got}")
    if not bool(torch.isfinite(logits).all()):
        raise BcosError("the model's outputs are not finite; check its weights and precision")
    if callable(target):
        raise BcosError("this method explains classes, by index or by name; a callable target is for the method bcos")
    return class_indices_of(logits, with_indices(model, target))


def check_number(target: object, inputs: int) -> None:
    """Refuse targets that are not as many as the inputs, of which parts are taken before they meet any logits."""
    if isinstance(target, Tensor) and target.ndim and len(target) != inputs:
        raise BcosError(
            f"target must be None, a class, ({inputs},) or ({inputs}, T) classes for {inputs} inputs, got shape "
            f"{tuple(target.shape)}"
        )


def as_columns(indices: Tensor) -> Tensor:
    """(N, T) from indices (N,) or (N, T)."""
    return indices.reshape(len(indices), -1)


def like_target(attribution: Tensor, indices: Tensor) -> Tensor:
    """(N, T, ...) without the dimension of targets where there is one target an input; detached, of its own memory."""
    result = attribution if indices.ndim == 2 else attribution[:, 0]
    return result.detach().clone(memory_format=torch.contiguous_format)


def check_count(name: str, value: object, least: int = 1) -> None:
    """Check an option.

    Raises:
        BcosError: no integer, or below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BcosError(f"{name} must be a whole number of at least {least}, got {value!r}")
