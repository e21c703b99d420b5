"""Gradients of several outputs from one forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_explain.explainers.contract import Target, as_columns, class_indices


def target_gradients(outputs: Tensor, indices: Tensor, source: Tensor) -> Tensor | None:
    """``∂ outputs[n, indices[n, t]] / ∂ source``, one backward pass for each t.

    Args:
        outputs: (N, K), in the graph; row n depends on row n of `source` alone.
        indices: (N, T).
        source: (N, ...).

    Returns:
        (N, T, ...), or None if the outputs do not depend on the source.
    """
    columns = []
    for column in indices.unbind(1):
        scores = outputs.gather(1, column[:, None]).sum()
        gradient: Tensor | None = torch.autograd.grad(scores, source, retain_graph=True, allow_unused=True)[0]
        if gradient is None:
            return None
        columns.append(gradient)
    return torch.stack(columns, 1)


class SharedForward:
    """Stands in for Captum's gradient function, so that one forward pass serves all targets.

    Captum asks its ``gradient_func`` for one gradient (N, C, H, W) a forward pass. This one returns (N, T, C,
    H, W), which Captum's methods carry through where they do not multiply by the input.

    Args:
        target: explained classes, where they are not given to Captum as additional forward argument (N, T).

    After a call ``indices`` holds the classes (N,) or (N, T).
    """

    def __init__(self, target: Target = None) -> None:
        self.target = target
        self.indices = torch.empty(0)

    def __call__(
        self,
        forward_fn: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
        target_ind: object = None,
        additional_forward_args: Any = None,
    ) -> tuple[Tensor]:
        """Gradients of the targets' outputs by the only input; named as in Captum."""
        del target_ind
        outputs = forward_fn(*inputs)
        target = self.target if additional_forward_args is None else additional_forward_args[0]
        self.indices = class_indices(outputs, target)
        gradient = target_gradients(outputs, as_columns(self.indices), inputs[0])
        assert gradient is not None  # a network whose outputs do not depend on the input has no logits
        return (gradient,)
