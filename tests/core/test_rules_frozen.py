"""Gates, statistics and powers in explanation mode: their results are held constant."""

import math

import pytest
import torch
import torch.nn.functional as F
from rule_networks import Call, weights
from torch import nn

from bcos_core import explain

X = torch.tensor([[0.3, 1.2, 2.5, 0.7], [1.6, 0.2, 0.9, 3.1], [0.4, 2.2, 1.1, 0.05]]).double()
SIGNED = X * torch.tensor([1.0, -1.0, 1.0, -1.0]).double()


GATES = {
    "softmax": [lambda x: F.softmax(x, 1), lambda x: torch.softmax(x, 1), lambda x: x.softmax(1), nn.Softmax(1)],
    "softmin": [lambda x: F.softmin(x, 1), nn.Softmin(1)],
    "sigmoid": [torch.sigmoid, torch.special.expit, lambda x: x.sigmoid(), nn.Sigmoid(), F.sigmoid],
    "hardsigmoid": [F.hardsigmoid, nn.Hardsigmoid(), lambda x: F.hardsigmoid(x * 1, inplace=True)],
    "exp": [torch.exp, lambda x: x.exp(), torch.exp2, torch.special.exp2],
    "log": [torch.log, lambda x: x.log2(), torch.log10],
    "cos": [torch.cos, lambda x: x.cosh()],
    "sqrt": [torch.sqrt, lambda x: x.rsqrt(), torch.reciprocal],
    "logsumexp": [lambda x: torch.logsumexp(x, 1, keepdim=True), lambda x: x.logsumexp(1, True)],
    "std": [lambda x: x.std(1, keepdim=True), lambda x: torch.std(x, 1, correction=0, keepdim=True), torch.std],
    "var": [lambda x: x.var(1, keepdim=True), lambda x: torch.var(x, 1, keepdim=True, unbiased=False), torch.var],
    "norm": [
        torch.norm,
        lambda x: x.norm(dim=1, keepdim=True),
        lambda x: torch.linalg.norm(x, dim=1, keepdim=True),
        lambda x: torch.linalg.vector_norm(x, 3, 1, keepdim=True),
        torch.linalg.matrix_norm,
    ],
    "distance": [
        lambda x: torch.cdist(x, x + 1).sum(1, keepdim=True),
        lambda x: F.pairwise_distance(x, x.flip(0))[:, None],
        lambda x: torch.dist(x, x.flip(1)),
    ],
    "sign": [torch.sign, torch.sgn, lambda x: x.sign(), lambda x: torch.heaviside(x, torch.ones_like(x))],
    "round": [torch.floor, torch.ceil, torch.round, torch.trunc, torch.frac, lambda x: x.round(decimals=1)],
    "floor_divide": [lambda x: x // 0.4, lambda x: torch.floor_divide(x, 0.4), lambda x: 5 // x],
    "rounded quotient": [lambda x: torch.div(x, 0.4, rounding_mode="trunc")],
    "reverse": [lambda x: 2**x, lambda x: 2 / x, lambda x: 1.5 / (x + 1), lambda x: torch.full_like(x, 3.0) / x],
    "erfc": [torch.erfc, torch.special.erfc, lambda x: x.erfc()],
    "in place": [
        lambda x: (x * 1).sigmoid_(),
        lambda x: (x * 1).exp_(),
        lambda x: (x * 1).sqrt_(),
        lambda x: torch.exp_(x * 1),
        lambda x: (x * 1).floor_(),
    ],
    "powers": [
        lambda x: x**-1,
        lambda x: x**0.5,
        lambda x: torch.pow(x, -2),
        lambda x: x.pow(0),
        lambda x: x**x,
        lambda x: 1.7**x,
        lambda x: torch.pow(2.0, x),
        lambda x: torch.tensor([1.0, 2.0, 3.0, 4.0]).double() ** x,
        lambda x: torch.float_power(x, -0.5),
        lambda x: (x * 1).pow_(-1),
    ],
}
CASES = [pytest.param(f, id=f"{name}-{i}") for name, functions in GATES.items() for i, f in enumerate(functions)]


@pytest.mark.parametrize("function", CASES)
def test_product_with_a_gate_has_the_gate_as_its_weight(function):
    gate = function(X).detach()
    value, gradient = weights(lambda x: x * function(x), X)
    torch.testing.assert_close(value, X * gate, rtol=0, atol=0)
    torch.testing.assert_close(gradient, gate.expand_as(X))


@pytest.mark.parametrize("function", CASES)
def test_product_with_a_gate_is_explained_without_a_bias(function):
    e = explain(Call(lambda x: x * function(x)), X, target=1)
    torch.testing.assert_close(e.contributions[:, 1], (X * function(X))[:, 1].detach())
    assert e.bias_terms == {}


@pytest.mark.parametrize("function", CASES)
def test_gate_that_is_added_is_one_constant(function):
    e = explain(Call(lambda x: 2 * x + function(x)), X, target=1)
    torch.testing.assert_close(e.bias, function(X).detach().expand_as(X)[:, 1])
    torch.testing.assert_close(e.contributions[:, 1], 2 * X[:, 1])
    assert len(e.bias_terms) == 1


NAMES = {
    "sigmoid": lambda x: x.sigmoid(),
    "exp": torch.exp,
    "std": lambda x: x.std(1, keepdim=True),
    "rpow": lambda x: 2**x,
    "pow": lambda x: x**-1,
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
}


@pytest.mark.parametrize("name", NAMES)
def test_gate_that_is_added_is_named_after_its_function(name):
    e = explain(Call(lambda x: x + NAMES[name](x)), X, target=1)
    assert list(e.bias_terms) == [f"{name} (frozen)"]


@pytest.mark.parametrize("name", ["sigmoid", "exp", "sqrt"])
def test_gate_in_place_that_is_added_is_named_after_its_function(name):
    e = explain(Call(lambda x: x + getattr(x * 1, f"{name}_")()), X, target=1)
    assert list(e.bias_terms) == [f"{name} (frozen)"]


def test_gumbel_softmax_is_frozen_as_drawn():
    torch.manual_seed(3)
    gate = F.gumbel_softmax(X, hard=True)
    torch.manual_seed(3)
    value, gradient = weights(lambda x: x * F.gumbel_softmax(x, hard=True), X)
    torch.testing.assert_close(value, X * gate)
    torch.testing.assert_close(gradient, gate)


@pytest.mark.parametrize("function", [torch.var_mean, torch.std_mean])
def test_mean_beside_a_variance_is_linear_and_the_variance_frozen(function):
    spread = function(X, 1, keepdim=True)[0]

    def standardised(x):
        spread, mean = function(x, 1, keepdim=True)
        return (x - mean) / spread

    literal = X.clone().requires_grad_()
    y = (literal - literal.sum(1, keepdim=True) / 4) / spread
    cotangent = torch.arange(12).reshape(3, 4).double()
    (expected,) = torch.autograd.grad((y * cotangent).sum(), literal)
    value, gradient = weights(lambda x: standardised(x) * cotangent, X)
    torch.testing.assert_close(value, (y * cotangent).detach())
    torch.testing.assert_close(gradient, expected)


def raised(p):
    yield lambda x: x**p
    yield lambda x: torch.pow(x, p)
    yield lambda x: x.pow(exponent=p)
    yield lambda x: torch.float_power(x, p)
    yield lambda x: torch.pow(x, torch.tensor(float(p)))
    yield lambda x: x ** torch.full((4,), p).double()
    yield lambda x: (x * 1).pow_(p)


POWERS = [pytest.param(p, f, id=f"p={p}-{i}") for p in (1, 2, 3, 4) for i, f in enumerate(raised(p))]


@pytest.mark.parametrize(("p", "function"), POWERS)
def test_power_is_x_times_a_frozen_power_of_one_less(p, function):
    value, gradient = weights(function, SIGNED)
    torch.testing.assert_close(value, math.prod([SIGNED] * p, start=torch.ones_like(X)))
    torch.testing.assert_close(gradient, math.prod([SIGNED] * (p - 1), start=torch.ones_like(X)))
    e = explain(Call(function), SIGNED, target=1)
    assert (e.residual.abs() < 1e-12).all()
    assert e.bias_terms == {}


def test_power_between_one_and_two_is_x_times_a_frozen_root():
    value, gradient = weights(lambda x: x**1.5, X)
    torch.testing.assert_close(value, X * X.sqrt())
    torch.testing.assert_close(gradient, X.sqrt())


@pytest.mark.parametrize("p", [2, 3])
def test_augmented_power_is_a_power(p):
    def function(x):
        y = x * 1
        y **= p
        return y

    value, gradient = weights(function, SIGNED)
    torch.testing.assert_close(value, SIGNED**p)
    torch.testing.assert_close(gradient, SIGNED ** (p - 1))


@pytest.mark.parametrize("name", ["sigmoid_", "exp_", "sqrt_"])
def test_gate_in_place_on_a_part_of_a_tensor_freezes_that_part(name):
    def function(x):
        y = x * 1
        getattr(y[:, 2:], name)()
        return y

    value, gradient = weights(function, X)
    torch.testing.assert_close(value, torch.cat([X[:, :2], getattr(torch, name[:-1])(X[:, 2:])], 1))
    torch.testing.assert_close(gradient, torch.cat([torch.ones(3, 2), torch.zeros(3, 2)], 1).double())


@pytest.mark.parametrize("frozen", [torch.sigmoid, torch.sqrt, torch.exp, lambda x: x.norm(dim=1, keepdim=True)])
def test_zeros_have_finite_weights(frozen):
    x = torch.zeros(2, 3).double()
    value, gradient = weights(lambda v: v * frozen(v) + v.square() + v**3, x)
    torch.testing.assert_close(value, x)
    torch.testing.assert_close(gradient, frozen(x).expand_as(x))


@pytest.mark.parametrize("function", CASES)
def test_frozen_result_that_is_added_is_bias_alone(function):
    e = explain(Call(lambda x: 3 * x + function(x).expand_as(x)), X, target=2)
    torch.testing.assert_close(e.bias, function(X).detach().expand_as(X)[:, 2])
    assert (e.weight[:, 2] == 3).all()
