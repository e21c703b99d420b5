"""b(x): every constant that a network adds is measured, and named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import AddInverse, BcosError, BcosLinear, LogitLayer, explain, norms


class Net(nn.Module):
    """A function of the input, a parameter `c` (4,) and a buffer `k` (4,)."""

    def __init__(self, function):
        super().__init__()
        self.c = nn.Parameter(torch.randn(4).double())
        self.register_buffer("k", torch.randn(4).double())
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def explained(function, x=None):
    model = Net(function)
    x = torch.randn(3, 4).double() if x is None else x
    e = explain(model, x, target=2)
    torch.testing.assert_close(e.score, model(x)[:, 2])
    torch.testing.assert_close(e.contributions.flatten(1).sum(1) + e.bias, e.score)
    torch.testing.assert_close(e.bias, sum(e.bias_terms.values(), start=torch.zeros(len(x)).double()))
    return model, e


ADDITIONS = {
    "x + c": (lambda m, x: x + m.c, "c", 1),
    "c + x": (lambda m, x: m.c + x, "c", 1),
    "x - c": (lambda m, x: x - m.c, "c", -1),
    "c - x": (lambda m, x: m.c - x, "c", 1),
    "x + k": (lambda m, x: x + m.k, "k", 1),
    "x += c": (lambda m, x: (x * 1).__iadd__(m.c), "c", 1),
    "x -= c": (lambda m, x: (x * 1).__isub__(m.c), "c", -1),
    "x.add_(c)": (lambda m, x: (x * 1).add_(m.c), "c", 1),
    "torch.add": (lambda m, x: torch.add(x, m.c), "c", 1),
    "alpha": (lambda m, x: torch.add(x, m.c, alpha=2), "c", 2),
    "sub alpha": (lambda m, x: torch.sub(x, m.c, alpha=2), "c", -2),
    "torch.sub": (lambda m, x: torch.sub(x, m.c), "c", -1),
    "torch.rsub": (lambda m, x: torch.rsub(x, m.c), "c", 1),
    "torch.subtract": (lambda m, x: torch.subtract(x, m.c), "c", -1),
    "x.subtract": (lambda m, x: x.subtract(m.c), "c", -1),
    "torch.addmm": (lambda m, x: torch.addmm(m.c, x, torch.eye(4).double()), "c", 1),
    "twice": (lambda m, x: (x + m.c) + m.c, "c", 2),
    "scaled after": (lambda m, x: 3 * (x + m.c), "c", 3),
    "bias": (lambda m, x: F.linear(x, torch.eye(4).double(), m.c), "c", 1),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_every_way_of_adding_a_constant_is_measured_under_its_name(name):
    function, term, factor = ADDITIONS[name]
    model, e = explained(function)
    share = factor * getattr(model, term)[2].detach()
    torch.testing.assert_close(e.bias_terms[term], share.expand(3))
    others = [v for k, v in e.bias_terms.items() if k != term]
    assert all((v == 0).all() for v in others)


DERIVED = {
    "view": (lambda m, x: x + m.c.view(1, 4), lambda m: m.c[2]),
    "slice": (lambda m, x: x + m.c[:4], lambda m: m.c[2]),
    "scaled before": (lambda m, x: x + 2 * m.c, lambda m: 2 * m.c[2]),
    "cast": (lambda m, x: x + m.c.float(), lambda m: m.c[2].float().double()),
    "sum of two": (lambda m, x: x + (m.c + m.k), lambda m: m.c[2] + m.k[2]),
    "number": (lambda m, x: x + 1.5, lambda m: torch.tensor(1.5).double()),
    "integer": (lambda m, x: 1 - x, lambda m: torch.tensor(1.0).double()),
    "integer tensor": (lambda m, x: x + torch.arange(4), lambda m: torch.tensor(2.0).double()),
    "0-d tensor": (lambda m, x: x + m.k[1], lambda m: m.k[1]),
    "row for each sample": (lambda m, x: x + m.c.expand(3, 4), lambda m: m.c[2]),
}


@pytest.mark.parametrize("name", DERIVED)
def test_constants_derived_from_parameters_are_measured(name):
    function, share = DERIVED[name]
    model, e = explained(function)
    torch.testing.assert_close(e.bias, share(model).detach().expand(3))


def test_accumulating_in_place_into_a_constant_is_explained():
    _, e = explained(lambda m, x: torch.zeros(3, 4).double().add_(x))
    assert (e.bias == 0).all()


def test_sum_of_a_list_is_explained():
    _, e = explained(lambda m, x: sum([x, 2 * x]))
    assert (e.bias == 0).all()


def test_input_changed_in_place_is_explained():
    _, e = explained(lambda m, x: x.sub_(0.5))
    torch.testing.assert_close(e.bias, torch.full((3,), -0.5).double())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_constants_are_shared_out_rightly_when_the_batch_is_not_the_first_dimension(n):
    """Transformers with (tokens, N, features), as torch's own by default."""
    x = torch.randn(n, 3, 4).double()

    def function(m, x):
        tokens = x.transpose(0, 1)  # (tokens, N, features)
        gates = x.detach().mean(2).T[..., None]  # differ from sample to sample
        return ((tokens + m.k) * gates).transpose(0, 1).sum(1)

    model, e = explained(function, x)
    torch.testing.assert_close(e.bias, x.mean(2).sum(1) * model.k[2])


RARE = {
    "cat": lambda m, x: torch.cat([x[:, :2], m.c.expand(3, 4)], 1),
    "addcmul": lambda m, x: torch.addcmul(m.c, x, m.k),
    "where": lambda m, x: torch.where(m.k > 0, x, m.c),
    "masked_fill": lambda m, x: x.masked_fill(m.k > -1, 2.0),
    "pad": lambda m, x: F.pad(x[:, :2], (0, 2), value=2.0),
    "lerp": lambda m, x: x.lerp(m.c.expand(3, 4), 0.3),
    "more dimensions": lambda m, x: (x + m.k.expand(2, 1, 4)).sum(0),
    "transposed convolution": lambda m, x: F.conv_transpose1d(
        x[..., None], torch.eye(4).double()[..., None], m.c
    ).flatten(1),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_ways_of_adding_are_exact_or_refused(name):
    """Never a wrong explanation, and never an error that is not ours."""
    model, x = Net(RARE[name]), torch.randn(3, 4).double()
    try:
        e = explain(model, x, target=2)
    except BcosError as refusal:
        message = str(refusal)
    else:
        message = "miss the output"
        torch.testing.assert_close(e.contributions.sum(1) + e.bias, model(x)[:, 2])
    assert "miss the output" in message


def test_unnamed_constants_are_called_constant():
    _, e = explained(lambda m, x: (1 - x) + 0.5)
    assert list(e.bias_terms) == ["constant"]
    torch.testing.assert_close(e.bias, torch.full((3,), 1.5).double())


def test_constants_inside_a_frozen_factor_are_left_out():
    _, e = explained(lambda m, x: x * (x + m.c).detach())
    assert list(e.bias_terms) == []


def test_inverse_channels_and_logit_bias_are_constants():
    weight = torch.randn(3, 8).double()
    model = nn.Sequential(AddInverse(-1), nn.Linear(8, 3, bias=False).double(), LogitLayer(2.0, -1.5))
    model[1].weight = nn.Parameter(weight)
    e = explain(model, torch.rand(2, 4).double(), target=1)
    torch.testing.assert_close(e.bias, (weight[1, 4:].sum() / 2 - 1.5).expand(2))
    torch.testing.assert_close(e.bias_terms["inverse channels"], (weight[1, 4:].sum() / 2).expand(2))
    assert e.bias_terms["logit bias"].tolist() == [-1.5, -1.5]


def test_batch_norm_subtracts_a_named_mean(randomized):
    model = randomized(nn.BatchNorm1d(4).double())
    e = explain(model, torch.randn(2, 4).double(), target=1)
    std = (model.running_var[1] + model.eps).sqrt()
    share = -(model.running_mean[1] * model.weight[1] / std).detach()
    torch.testing.assert_close(e.bias_terms["running_mean"], share.expand(2))
    torch.testing.assert_close(e.bias_terms["bias"], model.bias[1].detach().expand(2))


@pytest.mark.parametrize("train", [True, False], ids=["trainable", "frozen parameters"])
@pytest.mark.parametrize("name", norms.norm_names())
def test_bias_of_every_norm_is_measured_under_its_name(name, train, randomized):
    norm = randomized(norms.make_norm(name, 4, affine="affine").double()).requires_grad_(train)
    model = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    e = explain(model, torch.randn(2, 4, 3, 3).double(), target=1)
    bias = norm.bias[0] if norm.bias.numel() == 1 else norm.bias[1]
    torch.testing.assert_close(e.bias_terms["0.bias"], bias.detach().expand(2))
    torch.testing.assert_close(e.contributions.flatten(1).sum(1) + e.bias, e.score)


@pytest.mark.parametrize("layer", [norms.LayerNorm, norms.LayerNormUncentered])
def test_bias_of_token_norms_is_measured_under_its_name(layer, randomized):
    norm = randomized(layer(4, bias=True).double())
    e = explain(norm, torch.randn(2, 3, 4).double(), target=1)
    torch.testing.assert_close(e.bias_terms["bias"], 3 * norm.bias[1].detach().expand(2))


def test_shared_parameter_has_one_term():
    layer = nn.Linear(4, 4).double()
    e = explain(nn.Sequential(layer, layer), torch.randn(2, 4).double(), target=1)
    expected = layer.bias[1] + layer.weight[1] @ layer.bias
    torch.testing.assert_close(e.bias_terms["0.bias"], expected.detach().expand(2))
    assert list(e.bias_terms) == ["0.bias"]


def test_every_share_is_the_frozen_network_with_that_constant_alone(randomized):
    """The network, written out with its factors as numbers, is affine: switch all constants off but one."""
    model = nn.Sequential(
        nn.Linear(4, 6),
        BcosLinear(6, 6),
        nn.LayerNorm(6),
        BcosLinear(6, 5, b=1.5),
        nn.Linear(5, 3),
        LogitLayer(0.5, -2.0),
    )
    model = randomized(model.double())
    x = torch.randn(2, 4).double()
    w1, w2, w3, w4, w5 = (model[i].weight.detach() for i in range(5))
    unit2, unit4 = (w / w.norm(dim=1, keepdim=True) for w in (w2, w4))
    terms = {
        "0.bias": model[0].bias,
        "2.bias": model[2].bias,
        "4.bias": model[4].bias,
        "logit bias": torch.tensor(-2.0),
    }
    terms = {name: value.detach().double() for name, value in terms.items()}

    def forward(x, constants, factors):
        """Records the factors if there are none yet."""
        record = not factors
        h1 = x @ w1.T + constants["0.bias"]
        linear2 = h1 @ unit2.T
        if record:
            factors["cos2"] = (linear2 / (h1.norm(dim=1, keepdim=True) + 1e-12)).abs()
        h2 = factors["cos2"] * linear2
        centered = h2 - h2.mean(1, keepdim=True)
        if record:
            factors["std"] = (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
        h3 = centered / factors["std"] * w3 + constants["2.bias"]
        linear4 = h3 @ unit4.T
        if record:
            factors["cos4"] = ((linear4 / (h3.norm(dim=1, keepdim=True) + 1e-12)).abs() + 1e-6) ** 0.5
        h4 = factors["cos4"] * linear4
        return (h4 @ w5.T + constants["4.bias"]) / 0.5 + constants["logit bias"]

    factors = {}
    torch.testing.assert_close(forward(x, terms, factors), model(x).detach())
    off = {name: torch.zeros(()).double() for name in terms}
    e = explain(model, x, target=[[0, 1, 2]] * 2)
    assert set(e.bias_terms) == set(terms)
    for name, value in terms.items():
        share = forward(torch.zeros_like(x), off | {name: value}, factors)
        torch.testing.assert_close(e.bias_terms[name], share)
    for i in range(4):
        column = forward(torch.eye(4).double()[i].expand(2, 4), off, factors)
        torch.testing.assert_close(e.weight[:, :, i], column)
