"""Attention: queries and keys, and with them the attention matrix, are frozen."""

import inspect
import math
from types import SimpleNamespace
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
    query, key = as_factor(query), as_factor(key)
    if mask is None and not is_causal and not kwargs.get("enable_gqa") and _is_cheaper_by_hand(query, key, value):
        scale = kwargs.get("scale")
        query = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        return (query @ key.transpose(-2, -1)).softmax(-1) @ value
    return func(query, key, value, mask, **kwargs)  # type: ignore[no-any-return] # reason: func is any callable


def _is_cheaper_by_hand(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the matrix itself takes less time, and no more memory, than PyTorch's fused attention.

    On a CPU that computes derivatives by queries and keys whether they are needed or not, and keeps four tensors of
    the size of the values for them.
    """
    tokens = max(query.shape[-2], key.shape[-2])
    fits = tokens <= 4 * value.shape[-1]
    return fits and query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64)


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


@composition("multi_head_attention_forward")
def multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """:class:`torch.nn.MultiheadAttention`, sequence first, as projections and a softmax; rarer forms are refused."""
    call = _MULTI_HEAD.bind(*args, **kwargs)
    call.apply_defaults()
    given = SimpleNamespace(**call.arguments)  # `is_causal` is not read: a causal call has its mask
    if any(t is not None for t in (given.bias_k, given.bias_v, given.static_k, given.static_v)) or given.add_zero_attn:
        raise BcosError("cannot explain attention with bias_k, bias_v, add_zero_attn or static keys; build it without")
    _refuse_dropout(given.dropout_p if given.training else 0.0)
    batched = given.query.ndim == 3
    inputs = [t if batched else t.unsqueeze(1) for t in (given.query, given.key, given.value)]
    if given.use_separate_proj_weight:
        weights = (given.q_proj_weight, given.k_proj_weight, given.v_proj_weight)
    else:
        weights = given.in_proj_weight.chunk(3)
    biases = (None,) * 3 if given.in_proj_bias is None else given.in_proj_bias.chunk(3)
    projected = [F.linear(t, w, b) for t, w, b in zip(inputs, weights, biases, strict=True)]
    q, k, v = (t.unflatten(-1, (given.num_heads, -1)).permute(1, 2, 0, 3) for t in projected)  # (N, heads, tokens, d)
    scores = q.detach() @ k.detach().transpose(-2, -1) / math.sqrt(q.shape[-1])
    if (mask := given.attn_mask) is not None:
        scores = _masked(scores, mask.unflatten(0, (-1, given.num_heads)) if mask.ndim == 3 else mask)
    if (padding := given.key_padding_mask) is not None:
        scores = _masked(scores, (padding if batched else padding[None])[:, None, None])
    attention = scores.softmax(-1)
    mixed = (attention @ v).permute(2, 0, 1, 3).flatten(2)  # (tokens, N, heads · d)
    out = F.linear(mixed, given.out_proj_weight, given.out_proj_bias)
    shown = None
    if given.need_weights:
        shown = attention.mean(1) if given.average_attn_weights else attention
    if batched:
        return out, shown
    return out.squeeze(1), None if shown is None else shown.squeeze(0)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _refuse_dropout(p: float) -> None:
    if p > 0:
        raise BcosError(f"cannot explain: attention drops weights at random (p={p:g}); call model.eval() first")
