"""Multi-head attention whose output projection is B-cos."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_models.conversion import ConversionOptions
from bcos_models.convert.layers import bcos_linear


class BcosMultiheadAttention(nn.Module):
    """:class:`torch.nn.MultiheadAttention` with linear queries, keys and values, and a B-cos output projection.

    Shapes: those of PyTorch's module, one sequence without a batch too.
    """

    in_proj_bias = None
    """Tells PyTorch's encoder layers not to take their fast path, which works for PyTorch's own attention only."""

    def __init__(
        self, in_proj: nn.Linear, out_proj: nn.Module, *, num_heads: int, batch_first: bool, dropout: float
    ) -> None:
        super().__init__()
        self.in_proj = in_proj
        self.out_proj = out_proj
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.dropout = dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix the values; returns them and, on request, the attention (N, [heads,] tokens, tokens)."""
        del is_causal  # a causal call has its mask
        batched = query.ndim == 3
        given = [t if batched else t.unsqueeze(0 if self.batch_first else 1) for t in (query, key, value)]
        given = [t if self.batch_first else t.transpose(0, 1) for t in given]
        weights = self.in_proj.weight.chunk(3)
        biases: Sequence[Tensor | None] = (None,) * 3 if self.in_proj.bias is None else self.in_proj.bias.chunk(3)
        projected = [F.linear(t, w, b) for t, w, b in zip(given, weights, biases, strict=True)]
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in projected)  # (N, heads, tokens, d)
        mask = self._mask(q, attn_mask, key_padding_mask)
        mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        shown = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            shown = (scores if mask is None else scores + mask).softmax(-1)
            shown = shown.mean(1) if average_attn_weights else shown
        if batched:
            return out, shown
        return out.squeeze(0 if self.batch_first else 1), None if shown is None else shown.squeeze(0)

    def _mask(self, q: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
        """Return one mask to be added to the scores (N, heads, tokens, tokens)."""
        parts = []
        if attn_mask is not None:
            heads = attn_mask.ndim == 3  # one for each sample and head
            parts.append(attn_mask.unflatten(0, (-1, self.num_heads)) if heads else attn_mask)
        if key_padding_mask is not None:
            padding = key_padding_mask if key_padding_mask.ndim == 2 else key_padding_mask[None]
            parts.append(padding[:, None, None])
        added = [_additive(part, q.dtype) for part in parts]
        return sum(added[1:], start=added[0]) if added else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)


def bcos_attention(old: Any, options: ConversionOptions) -> nn.Module | None:
    """B-cos attention with the weights of PyTorch's; None for its rarer forms."""
    if not old._qkv_same_embed_dim or old.bias_k is not None or old.add_zero_attn:
        return None
    keeps = options.keep_bias and old.in_proj_bias is not None
    in_proj = nn.Linear(old.embed_dim, 3 * old.embed_dim, bias=keeps, device="meta")
    in_proj.weight = old.in_proj_weight
    if keeps:
        in_proj.bias = old.in_proj_bias
    out_proj = bcos_linear(old.out_proj, options)
    new = BcosMultiheadAttention(
        in_proj, out_proj, num_heads=old.num_heads, batch_first=old.batch_first, dropout=old.dropout
    )
    return new.train(old.training)
