"""Attention: queries and keys, and with them the attention matrix, are frozen."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_core.dependence import depends
from bcos_core.errors import BcosError
from bcos_core.rules.activations import frozen
from bcos_core.rules.table import Function, composition, rule
from bcos_core.tape import as_factor


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(
    func: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    """``softmax(Q Kᵀ / √d + mask) V`` with frozen Q, K and mask."""
    _refuse_dropout(dropout_p)
    mask = as_factor(attn_mask)
    kwargs["is_causal"] = is_causal
    if not depends(value):
        return frozen(func, query, key, value, mask, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable
    return func(as_factor(query), as_factor(key), value, mask, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable


@composition("multi_head_attention_forward")
def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """:class:`torch.nn.MultiheadAttention`, sequence first, as projections and a softmax.

    Raises:
        BcosError: with ``bias_k``, ``bias_v``, ``add_zero_attn`` or static keys and values, or with dropout.
    """
    del embed_dim_to_check, is_causal  # a causal call has its mask
    if any(t is not None for t in (bias_k, bias_v, static_k, static_v)) or add_zero_attn:
        raise BcosError("cannot explain attention with bias_k, bias_v, add_zero_attn or static keys; build it without")
    _refuse_dropout(dropout_p if training else 0.0)
    batched = query.ndim == 3
    q, k, v = (t if batched else t.unsqueeze(1) for t in (query, key, value))
    weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        weights = tuple(in_proj_weight.chunk(3))  # type: ignore[assignment] # reason: three chunks
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (F.linear(t, w, b) for t, w, b in zip((q, k, v), weights, biases, strict=True))  # type: ignore[arg-type] # reason: separate weights are given together
    q, k, v = (t.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for t in (q, k, v))  # (N, heads, tokens, d)
    scores = q.detach() @ k.detach().transpose(-2, -1) / math.sqrt(q.shape[-1])
    if attn_mask is not None:
        mask = attn_mask.unflatten(0, (-1, num_heads)) if attn_mask.ndim == 3 else attn_mask
        scores = _masked(scores, mask)
    if key_padding_mask is not None:
        padding = key_padding_mask if batched else key_padding_mask[None]
        scores = _masked(scores, padding[:, None, None])
    attention = scores.softmax(-1)
    mixed = (attention @ v).permute(2, 0, 1, 3).flatten(2)  # (tokens, N, heads · d)
    out = F.linear(mixed, out_proj_weight, out_proj_bias)
    shown = (attention.mean(1) if average_attn_weights else attention) if need_weights else None
    if batched:
        return out, shown
    return out.squeeze(1), None if shown is None else shown.squeeze(0)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _refuse_dropout(p: float) -> None:
    if p > 0:
        raise BcosError(f"cannot explain: attention drops weights at random (p={p:g}); call model.eval() first")
