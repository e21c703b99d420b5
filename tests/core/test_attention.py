import pytest
import torch

from bcos_core import BcosCrossAttention, BcosError, BcosSelfAttention, CrossAttention, SelfAttention, explain


def literal(layer, x, *, frozen):
    """One head and one query after the other; the B-cos projection last."""

    def sg(t):
        return t.detach() if frozen else t

    d, samples = layer.head_dim, []
    for tokens in x:
        q, k, v = (tokens @ layer.qkv.weight.T).chunk(3, dim=-1)
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * d, (h + 1) * d)
            mixed = []
            for i in range(len(tokens)):
                scores = torch.stack([q[i, part] @ k[j, part] / d**0.5 for j in range(len(tokens))])
                shares = sg(scores.exp() / scores.exp().sum())
                mixed.append(sum(shares[j] * v[j, part] for j in range(len(tokens))))
            heads.append(torch.stack(mixed))
        mixed = torch.cat(heads, dim=-1)
        rows = layer.out.weight / layer.out.weight.norm(dim=1, keepdim=True)
        linear = mixed @ rows.T
        cos = sg(linear.abs() / mixed.norm(dim=1, keepdim=True))
        samples.append(cos * linear)
    return torch.stack(samples)


@pytest.fixture(params=[{"num_heads": 1}, {"num_heads": 2}, {"num_heads": 3, "head_dim": 4}], ids=str)
def layer(request, randomized):
    return randomized(BcosSelfAttention(6, **request.param).double())


@pytest.fixture
def tokens():
    return torch.randn(2, 3, 6).double()


def test_attention_is_its_definition(layer, tokens, gradient):
    torch.testing.assert_close(layer(tokens), literal(layer, tokens, frozen=False))
    expected = gradient(lambda v: literal(layer, v, frozen=False), tokens)
    torch.testing.assert_close(gradient(layer, tokens), expected)


def test_explanation_mode_freezes_the_attention_matrix(layer, tokens, gradient):
    expected = gradient(lambda v: literal(layer, v, frozen=True), tokens)
    torch.testing.assert_close(gradient(layer, tokens, explaining=True), expected)


def test_contributions_sum_to_the_output(layer, tokens, scale):
    e = explain(layer, tokens, target=4)
    assert (e.bias == 0).all()
    assert (e.residual.abs() <= 1e-9 * scale(e)).all()


def test_plain_attention_is_pytorchs(tokens, randomized):
    layer = randomized(SelfAttention(6, 2).double())
    theirs = torch.nn.MultiheadAttention(6, 2, bias=False, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict({"in_proj_weight": layer.qkv.weight, "out_proj.weight": layer.out.weight})
    torch.testing.assert_close(layer(tokens), theirs(tokens, tokens, tokens)[0])
    e = explain(layer, tokens, target=4)
    assert (e.bias == 0).all()
    assert (e.residual.abs() < 1e-12).all()


def test_shape_is_kept_and_settings_reach_the_projection():
    layer = BcosSelfAttention(8, 2, head_dim=3, b=1.5, max_out=2)
    assert layer(torch.randn(2, 5, 8)).shape == (2, 5, 8)
    assert layer.qkv.weight.shape == (18, 8)
    assert (layer.out.b, layer.out.max_out, layer.out.in_features) == (1.5, 2, 6)
    assert all(not name.endswith("bias") for name in layer.state_dict())


@pytest.mark.parametrize(("dim", "heads"), [(6, 4), (6, 0), (6, -2)])
def test_heads_that_do_not_divide_the_features_are_refused(dim, heads):
    message = f"num_heads must divide dim, got dim={dim} and num_heads={heads}; or give head_dim"
    with pytest.raises(BcosError, match=message):
        BcosSelfAttention(dim, heads)


def literal_cross(layer, x, context):
    """One head and one query after the other, with an attention matrix that is held constant."""
    d, samples = layer.head_dim, []
    for queries, tokens in zip(x, context, strict=True):
        q, (k, v) = queries @ layer.q.weight.T, (tokens @ layer.kv.weight.T).chunk(2, dim=-1)
        rows = []
        for i in range(len(queries)):
            heads = []
            for part in (slice(h * d, (h + 1) * d) for h in range(layer.num_heads)):
                scores = torch.stack([q[i, part] @ k[j, part] / d**0.5 for j in range(len(tokens))])
                shares = (scores.exp() / scores.exp().sum()).detach()
                heads.append(sum(shares[j] * v[j, part] for j in range(len(tokens))))
            rows.append(torch.cat(heads))
        mixed = torch.stack(rows)
        linear = mixed @ (layer.out.weight / layer.out.weight.norm(dim=1, keepdim=True)).T
        samples.append((linear.abs() / mixed.norm(dim=1, keepdim=True)).detach() * linear)
    return torch.stack(samples)


class Looking(torch.nn.Module):
    """Three tokens of 6 features look at four of 5 features; both come as one tensor (N, 38)."""

    def __init__(self, attention, residual):
        super().__init__()
        self.attention = attention
        self.residual = residual

    def forward(self, both):
        x, context = both[:, :18].unflatten(1, (3, 6)), both[:, 18:].unflatten(1, (4, 5))
        y = self.attention(x, context)
        return (x + y if self.residual else y).sum(1)


class AtContext(torch.nn.Module):
    def __init__(self, attention, x):
        super().__init__()
        self.attention = attention
        self.x = x

    def forward(self, context):
        return self.attention(self.x, context)


@pytest.fixture(params=[{"num_heads": 2}, {"num_heads": 3, "head_dim": 4}], ids=str)
def cross(request, randomized):
    return randomized(BcosCrossAttention(6, context_dim=5, **request.param).double())


def test_cross_attention_is_its_definition(cross, gradient):
    x, context = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 5).double()
    torch.testing.assert_close(cross(x, context), literal_cross(cross, x, context))
    expected = gradient(lambda c: literal_cross(cross, x, c), context)
    torch.testing.assert_close(gradient(AtContext(cross, x), context, explaining=True), expected)


def test_cross_attention_contributes_through_the_values_alone(cross):
    both = torch.randn(2, 38).double()
    e = explain(Looking(cross, residual=False), both, 4, probe=True)
    assert (e.weight[:, :18] == 0).all()
    assert (e.weight[:, 18:] != 0).any(1).all()
    assert not e.bias_terms
    torch.testing.assert_close(e.contributions.sum(1), e.score)


def test_residual_connection_makes_it_additive_over_both_inputs(cross):
    both = torch.randn(2, 38).double()
    e = explain(Looking(cross, residual=True), both, 4, probe=True)
    torch.testing.assert_close(e.contributions[:, :18].sum(1), both[:, :18].unflatten(1, (3, 6))[..., 4].sum(1))
    torch.testing.assert_close(e.contributions.sum(1), e.score)


def test_explanation_over_the_context_adds_up_and_one_over_the_queries_is_refused(cross):
    class Summed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = cross

        def forward(self, x, context):
            return self.attention(x, context).sum(1)

    x, context = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 5).double()
    e = explain(Summed(), context, 1, argument="context", args=[x])
    torch.testing.assert_close(e.contributions.sum((1, 2)), e.score)
    with pytest.raises(BcosError, match="does not depend on the input through anything that is not frozen"):
        explain(Summed(), x, 1, kwargs={"context": context})


def test_masked_context_is_not_looked_at(cross):
    x, context = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 5).double()
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    y = cross(x, context, mask)
    torch.testing.assert_close(y[:1], cross(x[:1], context[:1, [0, 1, 3]]))
    torch.testing.assert_close(y[1:], cross(x[1:], context[1:, :1]))


def test_plain_cross_attention_is_pytorchs(randomized):
    layer = randomized(CrossAttention(6, 2).double())
    x, context = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 6).double()
    theirs = torch.nn.MultiheadAttention(6, 2, bias=False, batch_first=True).double()
    theirs.in_proj_weight.data = torch.cat([layer.q.weight, layer.kv.weight])
    theirs.out_proj.weight.data = layer.out.weight.data
    torch.testing.assert_close(layer(x, context), theirs(x, context, context)[0])
    with pytest.raises(BcosError, match="num_heads must divide dim, got dim=6 and num_heads=4"):
        CrossAttention(6, 4)
