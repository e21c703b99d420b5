"""Attention rollout."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_core import BcosError, explanation_mode
from bcos_explain.explainers.cam import upsampled
from bcos_explain.explainers.contract import Target, as_columns, class_indices, differentiable, like_target
from bcos_explain.explainers.feature_map import as_feature_map
from bcos_explain.explainers.remarks import remark


@dataclass(frozen=True, kw_only=True)
class AttentionRollout:
    """Attention followed through all layers, ``Π_l ½(A_l + I)``, with A_l the mean over the heads.

    The same for every class, as a remark says: attention says where a transformer read, not what for.

    Args:
        residual: share of the skip connection, ½ in the paper.

    Returns (N, [T,] H, W), non-negative: the row of the class token, where there are tokens before those of
    the patches, else the mean over all rows; enlarged bilinearly.

    Raises:
        BcosError: a network without attention over all patches, or a share outside [0, 1).

    Source: Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.
    """

    several_targets: ClassVar[bool] = True
    residual: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.residual < 1:
            raise BcosError(f"residual must be a share in [0, 1), got {self.residual}")

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Follow the attention; `target` chooses nothing but the shape."""
        with differentiable(model, x) as leaf:
            attention = _AttentionMatrices(len(x))
            with attention, explanation_mode(model):  # which computes fused attention step by step
                logits = model(leaf)
            indices = class_indices(model, logits, target)
            reached = self._rollout([] if attention.is_partial else attention.matrices, x)
            tokens = reached.unsqueeze(-1)  # (N, tokens, 1)
            maps = as_feature_map(tokens, x.shape[-2], x.shape[-1])
            assert maps is not None  # _rollout has looked
            remark("attention is the same for every class")
            shown = upsampled(maps, x).to(x.dtype)  # (N, 1, H, W)
            return like_target(shown.expand(-1, as_columns(indices).shape[1], -1, -1), indices)

    def _rollout(self, matrices: list[Tensor], x: Tensor) -> Tensor:
        """(N, tokens): how much of each token has reached the output."""
        sizes = {m.shape[-1] for m in matrices}
        grids = {t: as_feature_map(x.new_zeros(1, t, 1), x.shape[-2], x.shape[-1]) for t in sizes}
        if len(sizes) != 1 or any(grid is None for grid in grids.values()):
            found = f"attention over {', '.join(map(str, sorted(sizes)))} tokens" if sizes else "no such attention"
            raise BcosError(
                f"attention rollout needs a transformer that attends to all patches in every layer, found {found}; "
                "use another method, such as gradcam"
            )
        (tokens,) = sizes
        identity = torch.eye(tokens, dtype=torch.float64, device=x.device)
        rolled = identity
        for matrix in matrices:
            rolled = ((1 - self.residual) * matrix + self.residual * identity) @ rolled
        grid = grids[tokens]
        assert grid is not None
        prefix = tokens - grid.shape[-2] * grid.shape[-1]
        return rolled[:, 0] if prefix else rolled.mean(1)


class _AttentionMatrices(TorchFunctionMode):
    """Collects the softmax of every self-attention, (N, tokens, tokens), averaged over the heads, float64."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.matrices: list[Tensor] = []
        self.is_partial = False
        """Whether some attention is within parts of an image, such as windows."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self._add(_attention(*args, **(kwargs or {})))
        elif func in _SOFTMAX:
            self._add(result)
        return result

    def _add(self, attention: Tensor) -> None:
        square = attention.ndim == 4 and attention.shape[-1] == attention.shape[-2]
        self.is_partial |= square and len(attention) != self.batch
        if square and len(attention) == self.batch:
            self.matrices.append(attention.detach().double().mean(1))


_SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *options: Any, **named: Any
) -> Tensor:
    """The matrix inside of ``scaled_dot_product_attention``: what it makes of the identity instead of `value`."""
    del value
    identity = torch.eye(key.shape[-2], dtype=torch.float64, device=key.device).expand(*key.shape[:-1], -1)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.double()
    return F.scaled_dot_product_attention(query.double(), key.double(), identity, attn_mask, *options, **named)
