import pytest
import torch

from bcos_core import BcosError, BcosSelfAttention, SelfAttention, explain


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
