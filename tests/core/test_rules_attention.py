"""Attention in explanation mode: a softmax with frozen queries and keys, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import explain, explanation_mode


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_attention(q, k, v, bias=0.0, scale=None):
    """Softmax over the keys of (q·k)/√d + bias, all detached, times the values."""
    scores = torch.einsum("...id,...jd->...ij", q, k) * (scale or 1 / math.sqrt(q.shape[-1])) + bias
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = (weights / weights.sum(-1, keepdim=True)).detach()
    return torch.einsum("...ij,...jd->...id", weights, v)


def as_bias(mask):
    """What a boolean mask, true where attention is allowed, adds to the scores."""
    return torch.zeros(mask.shape).double().masked_fill(~mask, -math.inf)


CAUSAL = torch.ones(5, 5).tril().bool()
ALLOWED = torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0]]).bool()
BIAS = randn(5, 5, seed=5)
SDPA = {
    "plain": ({}, {}),
    "bool mask": ({"attn_mask": ALLOWED}, {"bias": as_bias(ALLOWED)}),
    "float mask": ({"attn_mask": BIAS}, {"bias": BIAS}),
    "causal": ({"is_causal": True}, {"bias": as_bias(CAUSAL)}),
    "scale": ({"scale": 0.3}, {"scale": 0.3}),
}
PROJECTION = randn(3, 4, 4, seed=7)


class Attend(nn.Module):
    """(N, tokens, 4) with queries, keys and values computed from it."""

    def __init__(self, function, project=PROJECTION):
        super().__init__()
        self.function = function
        self.project = project

    def forward(self, x):
        return self.function(*(x @ w for w in self.project))


@pytest.mark.parametrize("name", SDPA)
def test_scaled_dot_product_attention_freezes_queries_and_keys(name, gradient):
    given, written = SDPA[name]
    x = randn(2, 5, 4)
    model = Attend(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **given))
    literal = Attend(lambda q, k, v: literal_attention(q, k, v, **written))
    torch.testing.assert_close(model(x), literal(x))
    with explanation_mode(model):
        torch.testing.assert_close(model(x), literal(x))
    torch.testing.assert_close(gradient(model, x, explaining=True), gradient(literal, x))
    e = explain(model, x, target=2)
    assert (e.residual.abs() < 1e-12).all()
    assert not e.bias.any()


@pytest.mark.parametrize("tokens", [5, 16, 17, 40])  # up to 16 a matrix is made, for more PyTorch's function is called
@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
def test_attention_by_hand_is_that_of_pytorch(tokens, scale):
    draw = [torch.randn(2, 3, tokens, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    query, key, value = draw[0], draw[1], draw[2].requires_grad_()
    with explanation_mode(nn.Identity()):
        mixed = F.scaled_dot_product_attention(query, key, value, scale=scale)
    expected = F.scaled_dot_product_attention(query, key, value, scale=scale)
    torch.testing.assert_close(mixed, expected)
    towards = torch.randn_like(mixed)
    torch.testing.assert_close(*(torch.autograd.grad(y, value, towards)[0] for y in (mixed, expected)))
    assert ("ScaledDotProduct" in type(mixed.grad_fn).__name__) == (tokens > 16)


def test_mask_that_depends_on_the_input_is_frozen(gradient):
    x = randn(2, 5, 4)
    model = Attend(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, q @ k.transpose(1, 2)))
    literal = Attend(lambda q, k, v: literal_attention(q, k, v, (q @ k.transpose(1, 2)).detach()))
    torch.testing.assert_close(gradient(model, x, explaining=True), gradient(literal, x))


def test_attention_over_constant_values_is_frozen():
    values, x = randn(2, 5, 4, seed=3), randn(2, 5, 4)
    model = Attend(lambda q, k, v: F.scaled_dot_product_attention(q, k, values) + v)
    e = explain(model, x, target=2)
    literal = Attend(lambda q, k, v: literal_attention(q, k, values))(x)
    torch.testing.assert_close(e.bias, literal[..., 2].sum(1))


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_with_grouped_heads_freezes_queries_and_keys(heads, gradient):
    def split(q, k, v):
        return q.unflatten(-1, (2, 2)).transpose(1, 2), *(
            t[..., None, : 2 * heads].unflatten(-1, (heads, 2)) for t in (k, v)
        )

    def function(attend):
        def forward(q, k, v):
            q, k, v = split(q, k, v)
            k, v = (t.squeeze(2).transpose(1, 2) for t in (k, v))
            return attend(q, k, v).transpose(1, 2).flatten(2)

        return forward

    x = randn(2, 5, 4)
    model = Attend(function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))
    literal = Attend(
        function(lambda q, k, v: literal_attention(q, k.repeat(1, 2 // heads, 1, 1), v.repeat(1, 2 // heads, 1, 1)))
    )
    torch.testing.assert_close(model(x), literal(x))
    torch.testing.assert_close(gradient(model, x, explaining=True), gradient(literal, x))


def literal_multi_head(m, query, key, value, bias=0.0):
    """(N, tokens, features) by loops over heads; `bias` (N, heads, queries, keys) is added to the scores."""
    e, d = m.embed_dim, m.head_dim
    if m._qkv_same_embed_dim:
        weights = m.in_proj_weight[:e], m.in_proj_weight[e : 2 * e], m.in_proj_weight[2 * e :]
    else:
        weights = m.q_proj_weight, m.k_proj_weight, m.v_proj_weight
    biases = torch.zeros(3 * e).double() if m.in_proj_bias is None else m.in_proj_bias
    q, k, v = (
        t @ w.T + biases[i * e : (i + 1) * e] for i, (t, w) in enumerate(zip((query, key, value), weights, strict=True))
    )
    shape = (len(query), m.num_heads, query.shape[1], key.shape[1])
    bias = torch.as_tensor(bias, dtype=torch.float64).expand(shape)
    heads = [slice(h * d, (h + 1) * d) for h in range(m.num_heads)]
    mixed = [literal_attention(q[..., s], k[..., s], v[..., s], bias[:, h]) for h, s in enumerate(heads)]
    out = torch.cat(mixed, -1) @ m.out_proj.weight.T
    return out if m.out_proj.bias is None else out + m.out_proj.bias


PADDING = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]).bool()
HEAD_BIAS = randn(4, 5, 5, seed=9)
MASKS = {
    "no mask": ({}, 0.0),
    "padding": ({"key_padding_mask": PADDING}, as_bias(~PADDING)[:, None, None]),
    "float padding": ({"key_padding_mask": randn(2, 5, seed=4)}, randn(2, 5, seed=4)[:, None, None]),
    "bool mask": ({"attn_mask": ~ALLOWED}, as_bias(ALLOWED)),
    "float mask": ({"attn_mask": BIAS}, BIAS),
    "mask for each head": ({"attn_mask": HEAD_BIAS}, HEAD_BIAS.unflatten(0, (2, 2))),
    "causal": ({"attn_mask": ~CAUSAL, "is_causal": True}, as_bias(CAUSAL)),
    "both": (
        {"attn_mask": ~CAUSAL, "key_padding_mask": PADDING},
        as_bias(CAUSAL) + as_bias(~PADDING)[:, None, None],
    ),
}


class SelfAttention(nn.Module):
    """Of (N, tokens, features), however the module wants its arguments."""

    def __init__(self, attention, **given):
        super().__init__()
        self.attention = attention
        self.given = given

    def forward(self, x):
        x = x if self.attention.batch_first else x.transpose(0, 1)
        key = x[..., : self.attention.kdim] if self.attention.kdim != x.shape[-1] else x
        value = x[..., : self.attention.vdim] if self.attention.vdim != x.shape[-1] else x
        y, _ = self.attention(x, key, value, **self.given)
        return y if self.attention.batch_first else y.transpose(0, 1)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", MASKS)
def test_multi_head_attention_freezes_queries_and_keys(name, batch_first, need_weights, randomized, gradient):
    given, bias = MASKS[name]
    attention = randomized(nn.MultiheadAttention(4, 2, batch_first=batch_first).double())
    model = SelfAttention(attention, need_weights=need_weights, **given)
    same(model, lambda x: literal_multi_head(attention, x, x, x, bias), gradient)


def same(model, literal, gradient, x=None):
    x = randn(2, 5, 4) if x is None else x
    torch.testing.assert_close(model(x), literal(x))
    torch.testing.assert_close(gradient(model, x, explaining=True), gradient(literal, x))
    e = explain(model, x, target=3)
    torch.testing.assert_close(e.score, literal(x)[..., 3].sum(1).detach())
    assert (e.residual.abs() < 1e-12).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [{}, {"kdim": 3}, {"kdim": 2, "vdim": 3}], ids=str)
def test_multi_head_attention_with_other_keys_and_values_is_explained(dims, bias, randomized, gradient):
    attention = randomized(nn.MultiheadAttention(4, 2, bias=bias, batch_first=True, **dims).double())
    k, v = dims.get("kdim", 4), dims.get("vdim", 4)
    same(SelfAttention(attention), lambda x: literal_multi_head(attention, x, x[..., :k], x[..., :v]), gradient)


@pytest.mark.parametrize("average", [True, False])
def test_multi_head_attention_shows_its_weights(average, randomized):
    attention = randomized(nn.MultiheadAttention(4, 2, batch_first=True).double())
    x = randn(2, 5, 4)
    _, plain = attention(x, x, x, average_attn_weights=average)
    leaf = x.clone().requires_grad_()
    with explanation_mode(attention):
        _, shown = attention(leaf, leaf, leaf, average_attn_weights=average)
    torch.testing.assert_close(shown, plain)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_without_a_batch_is_that_of_one_sample(need_weights, randomized, gradient):
    attention = randomized(nn.MultiheadAttention(4, 2).double())

    class Unbatched(nn.Module):
        def forward(self, x):
            mask = ~CAUSAL
            return torch.stack([attention(v, v, v, attn_mask=mask, need_weights=need_weights)[0] for v in x])

    same(Unbatched(), lambda x: literal_multi_head(attention, x, x, x, as_bias(CAUSAL)), gradient)
