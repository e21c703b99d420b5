"""Attention rollout."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_core import BcosError, explanation_mode
from bcos_core.layers import shared_copy
from bcos_explain.explainers.cam import upsampled
from bcos_explain.explainers.contract import Target, as_columns, class_indices, differentiable, like_target
from bcos_explain.explainers.feature_map import feature_outputs, token_grid
from bcos_explain.explainers.remarks import remark


@dataclass(frozen=True, kw_only=True)
class AttentionRollout:
    """Attention followed through all layers, ``Π_l ½(A_l + I)``, with A_l the mean over the heads.

    The same for every class, as a remark says: attention says where a transformer read, not what for. Another remark
    says if convolutions mix positions before the first attention, whose tokens the map is of.

    Args:
        residual: share of the skip connection, ½ in the paper.

    Returns (N, [T,] H, W), non-negative: the mean over the rows of the tokens that the classifier reads, which is
    the row of the class token where there is one; enlarged bilinearly.

    Raises:
        BcosError: a network that does not attend to all tokens in every layer, or mixes them in another way in
            between; tokens that are no patches; or a share outside [0, 1).

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
            copied = shared_copy(model)  # it gets hooks
            attention = _AttentionMatrices(len(x))
            with attention, explanation_mode(copied):  # which computes fused attention step by step
                outputs, logits = feature_outputs(copied, leaf)
            indices = class_indices(model, logits, target)
            grid = _grid(attention, x)
            read = _tokens_read(outputs, logits, attention.matrices[0].shape[-1])
            reached = (read.unsqueeze(1) @ self._rollout(attention.matrices))[:, 0]  # (N, tokens)
            patches = reached[:, reached.shape[1] - grid[0] * grid[1] :].unflatten(1, grid)
            remark("attention is the same for every class")
            if attention.convolved_before:
                remark("convolutions mix neighbours before the first attention: the map is of the tokens they make")
            shown = upsampled(patches.unsqueeze(1), x).to(x.dtype)  # (N, 1, H, W)
            return like_target(shown.expand(-1, as_columns(indices).shape[1], -1, -1), indices)

    def _rollout(self, matrices: list[Tensor]) -> Tensor:
        """(N, tokens, tokens): how much of each token has reached each token of the output."""
        identity = torch.eye(matrices[0].shape[-1], dtype=torch.float64, device=matrices[0].device)
        rolled = identity
        for matrix in matrices:
            rolled = ((1 - self.residual) * matrix + self.residual * identity) @ rolled
        return rolled


def _grid(attention: "_AttentionMatrices", x: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches whose tokens all attention is over; refuses another network."""
    sizes = sorted({m.shape[-1] for m in attention.matrices})
    grid = token_grid(sizes[0], x.shape[-2], x.shape[-1]) if len(sizes) == 1 else None
    if grid is not None and not attention.is_partial and not attention.convolved_between:
        return grid
    found = f"attention over {', '.join(map(str, sizes))} tokens" if sizes else "no such attention"
    found += ", and other attention within parts of the image or between other tokens" if attention.is_partial else ""
    found += ", and convolutions between attentions" if attention.convolved_between else ""
    raise BcosError(
        f"attention rollout needs a transformer that attends to all patches in every layer, found {found}; "
        "use another method, such as gradcam"
    )


def _tokens_read(outputs: Sequence[tuple[nn.Module, Tensor]], logits: Tensor, tokens: int) -> Tensor:
    """(N, tokens): equal shares of the last tokens before the classifier that the logits depend on, float64."""
    last = [output for _, output in outputs if output.ndim == 3 and output.shape[1] == tokens]
    # of the last layers, those that nothing comes after are not read at all: a norm of the class token alone
    for output in reversed(last):
        (gradient,) = torch.autograd.grad(logits.abs().sum(), output, retain_graph=True, allow_unused=True)
        if gradient is not None and bool(gradient.any()):
            read = (gradient != 0).any(-1).double()
            return read / read.sum(1, keepdim=True).clamp_min(1)
    raise BcosError(
        f"attention is over {tokens} tokens, but no layer gives (N, {tokens}, C) tokens that the output depends on, so "
        "that they are not those of patches; use another method, such as gradcam"
    )


class _AttentionMatrices(TorchFunctionMode):
    """Collects the softmax of every self-attention, (N, tokens, tokens), averaged over the heads.

    Within PyTorch's function it is computed anew, in float64; where a network, or explanation mode, computes the matrix
    itself, it is that one.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.matrices: list[Tensor] = []
        self.is_partial = False
        """Whether some attention is within parts of an image, such as windows, or between other tokens."""
        self.convolved_before = False
        """Whether convolutions mix positions before the first attention, patches without overlap aside."""
        self.convolved_between = False
        """Whether they do so after it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self._add(_attention(*args, **(kwargs or {})))
        elif func in _SOFTMAX:
            self._add(result)
        elif func in _CONVOLUTIONS:
            self._note_convolution(*args, **(kwargs or {}))
        return result

    def _add(self, attention: Tensor) -> None:
        if attention.ndim != 4:
            return
        if attention.shape[-1] == attention.shape[-2] and len(attention) == self.batch:
            self.matrices.append(attention.detach().double().mean(1))
        else:
            self.is_partial = True

    def _note_convolution(
        self, _input: Tensor, weight: Tensor, _bias: Tensor | None = None, stride: Any = 1, *_: Any, **named: Any
    ) -> None:
        stride = named.get("stride", stride)
        steps = stride if isinstance(stride, Sequence) else (stride,) * (weight.ndim - 2)
        if all(size <= step for size, step in zip(weight.shape[2:], steps, strict=False)):
            return
        self.convolved_between |= bool(self.matrices)
        self.convolved_before |= not self.matrices


_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
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
