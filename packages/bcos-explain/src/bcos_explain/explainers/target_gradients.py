"""Gradients of several outputs from one forward pass."""

import torch
from torch import Tensor


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
