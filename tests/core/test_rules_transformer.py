"""PyTorch's own transformer layers, and the attention that explanation mode refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import BcosError, explain, explanation_mode


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(**options):
    return nn.MultiheadAttention(4, 2, batch_first=True, **options).double()


class SelfAttention(nn.Module):
    def __init__(self, module, **given):
        super().__init__()
        self.attention = module
        self.given = given

    def forward(self, x):
        return self.attention(x, x, x, **self.given)[0]


class Static(nn.Module):
    def forward(self, x):
        x, m = x.transpose(0, 1), attention()
        projections = (m.in_proj_weight, m.in_proj_bias, None, None, False, 0.0, m.out_proj.weight, m.out_proj.bias)
        return F.multi_head_attention_forward(x, x, x, 4, 2, *projections, static_v=randn(4, 5, 2))[0].transpose(0, 1)


REFUSED = {
    "bias_k": (SelfAttention(attention(add_bias_kv=True)), "bias_k"),
    "add_zero_attn": (SelfAttention(attention(add_zero_attn=True)), "add_zero_attn"),
    "static_v": (Static(), "static keys"),
    "dropout": (SelfAttention(attention(dropout=0.25)), r"p=0\.25.*eval"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_with_what_has_no_rule_is_refused_by_name(name):
    model, message = REFUSED[name]
    with pytest.raises(BcosError, match=message):
        explain(model, randn(2, 5, 4), target=0)


def test_attention_that_drops_weights_is_explained_in_eval_mode():
    model = SelfAttention(attention(dropout=0.25)).eval()
    x = randn(2, 5, 4)
    e = explain(model, x, target=0)
    torch.testing.assert_close(e.score, model(x)[..., 0].sum(1).detach())


def test_dropout_of_scaled_dot_product_attention_is_refused():
    class Drop(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    with pytest.raises(BcosError, match=r"p=0\.5"):
        explain(Drop(), randn(2, 5, 4), target=0)


def test_biases_of_attention_are_measured_under_their_names(randomized):
    model = SelfAttention(randomized(attention()))
    e = explain(model, randn(2, 5, 4), target=0)
    assert set(e.bias_terms) == {"attention.in_proj_bias", "attention.out_proj.bias"}


def test_bias_of_attention_is_what_the_frozen_attention_makes_of_the_biases(randomized):
    """Rows of the attention matrix sum to 1: the bias of the values passes through it unchanged."""
    m = randomized(attention())
    e = explain(SelfAttention(m), randn(2, 5, 4), target=1)
    at_each_token = m.out_proj.weight[1] @ m.in_proj_bias[8:] + m.out_proj.bias[1]
    torch.testing.assert_close(e.bias, (5 * at_each_token).detach().expand(2))
    torch.testing.assert_close(e.bias_terms["attention.out_proj.bias"], (5 * m.out_proj.bias[1]).detach().expand(2))


LAYERS = {
    "relu": {},
    "gelu": {"activation": "gelu"},
    "norm first": {"norm_first": True},
    "without bias": {"bias": False},
    "tokens first": {"batch_first": False, "activation": F.silu},
}
PADDING = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()


def encoder_layer(name, randomized):
    options = {"batch_first": True, "dim_feedforward": 6, "dropout": 0.1} | LAYERS[name]
    return randomized(nn.TransformerEncoderLayer(4, 2, **options).double())


def standardise(x, layer):
    centered = x - x.sum(-1, keepdim=True) / x.shape[-1]
    variance = (centered**2).sum(-1, keepdim=True) / x.shape[-1]
    y = centered / (variance.detach() + layer.eps).sqrt() * layer.weight
    return y if layer.bias is None else y + layer.bias


def literal_attention(m, x, padding):
    biases = torch.zeros(12).double() if m.in_proj_bias is None else m.in_proj_bias
    q, k, v = (x @ w.T + b for w, b in zip(m.in_proj_weight.split(4), biases.split(4), strict=True))
    heads = []
    for h in (slice(0, 2), slice(2, 4)):
        scores = q[..., h] @ k[..., h].transpose(1, 2) / math.sqrt(2)
        scores = scores if padding is None else scores.masked_fill(padding[:, None], -math.inf)
        weights = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
        heads.append(weights.detach() @ v[..., h])
    out = torch.cat(heads, -1) @ m.out_proj.weight.T
    return out if m.out_proj.bias is None else out + m.out_proj.bias


def literal_layer(m, x, padding=None):
    def feed_forward(y):
        hidden = y @ m.linear1.weight.T + (0 if m.linear1.bias is None else m.linear1.bias)
        gate = (m.activation(hidden) / hidden).detach()
        return (gate * hidden) @ m.linear2.weight.T + (0 if m.linear2.bias is None else m.linear2.bias)

    if m.norm_first:
        x = x + literal_attention(m.self_attn, standardise(x, m.norm1), padding)
        return x + feed_forward(standardise(x, m.norm2))
    x = standardise(x + literal_attention(m.self_attn, x, padding), m.norm1)
    return standardise(x + feed_forward(x), m.norm2)


class BatchFirst(nn.Module):
    def __init__(self, layer, **given):
        super().__init__()
        self.layer = layer
        self.given = given

    def forward(self, x):
        if self.layer.self_attn.batch_first:
            return self.layer(x, **self.given)
        return self.layer(x.transpose(0, 1), **self.given).transpose(0, 1)


@pytest.mark.parametrize("trainable", [True, False], ids=["trainable", "frozen"])
@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("name", LAYERS)
def test_encoder_layer_is_explained_exactly_where_pytorch_has_a_fast_path(
    name, padding, trainable, randomized, gradient
):
    """In eval mode, without gradients, the plain layer is one fused call."""
    layer = encoder_layer(name, randomized).requires_grad_(trainable)
    model = BatchFirst(layer, **({} if padding is None else {"src_key_padding_mask": padding}))
    x = randn(2, 5, 4)

    def literal(v):
        return literal_layer(layer, v, padding)

    expected = literal(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
        e = explain(model, x, target=lambda y: y[:, :3, 1].sum(1))
    torch.testing.assert_close(e.score, expected[:, :3, 1].sum(1))
    assert (e.residual.abs() < 1e-12).all()
    leaf = x.clone().requires_grad_()
    (weight,) = torch.autograd.grad(literal(leaf)[:, :3, 1].sum(), leaf)
    torch.testing.assert_close(e.weight, weight)
    torch.testing.assert_close(gradient(model, x, explaining=True), gradient(literal, x))


def test_encoder_of_several_layers_is_explained_exactly(randomized):
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0.0)
    model = randomized(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).double())
    x = randn(2, 5, 4)
    e = explain(model, x, target=2)
    with torch.inference_mode():
        torch.testing.assert_close(e.score, model(x)[..., 2].sum(1))
    assert (e.residual.abs() < 1e-12).all()


def test_decoder_layer_is_explained_exactly(randomized):
    layer = randomized(nn.TransformerDecoderLayer(4, 2, 6, batch_first=True, dropout=0.0).double())

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x[:, :3], x, tgt_mask=torch.ones(3, 3).triu(1).bool())

    x = randn(2, 5, 4)
    e = explain(Decoder(), x, target=2)
    torch.testing.assert_close(e.score, Decoder()(x)[..., 2].sum(1).detach())
    assert (e.residual.abs() < 1e-12).all()


def test_constant_input_takes_its_fast_path_in_explanation_mode(randomized):
    layer = encoder_layer("relu", randomized)
    x = randn(2, 5, 4)
    with torch.no_grad():
        expected = layer(x)
        with explanation_mode(layer):
            torch.testing.assert_close(layer(x), expected)
