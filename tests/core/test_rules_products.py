"""Products in explanation mode: each of n factors that depend on the input is given one nth."""

import pytest
import torch
import torch.nn.functional as F
from rule_networks import Call
from torch import nn

from bcos_core import explain, explanation_mode


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)), dtype=torch.float64)


def gradients(function, *inputs, explaining=False):
    """Value, and the gradients of Σ f·v for a fixed v."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    if explaining:
        with explanation_mode(nn.Identity()):
            y = function(*leaves)
    else:
        y = function(*leaves)
    cotangent = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
    return y.detach(), torch.autograd.grad((y * cotangent).sum(), leaves, allow_unused=True)


def shared(function, n):
    """The definition: the mean of n functions, each with all factors but one detached."""

    def literal(*factors):
        terms = [function(*(f if i == j else f.detach() for j, f in enumerate(factors))) for i in range(n)]
        return sum(terms) / n

    return literal


def in_place(a, b):
    y = a * 1
    y *= b
    return y


TWO = {
    "*": (lambda a, b: a * b, (3, 4), (3, 4)),
    "broadcast *": (lambda a, b: a * b, (3, 4), (2, 3, 1)),
    "*=": (in_place, (3, 4), (4,)),
    "mul_": (lambda a, b: (a * 1).mul_(b), (3, 4), (3, 1)),
    "mul": (torch.mul, (3, 4), (4,)),
    "multiply": (lambda a, b: a.multiply(b), (3, 4), (4,)),
    "mul keywords": (lambda a, b: torch.mul(input=a, other=b), (3, 4), (4,)),
    "@": (lambda a, b: a @ b, (3, 4), (4, 2)),
    "matmul": (torch.matmul, (2, 3, 4), (4, 5)),
    "x.matmul": (lambda a, b: a.matmul(b), (4,), (4, 5)),
    "mm": (torch.mm, (3, 4), (4, 2)),
    "bmm": (torch.bmm, (2, 3, 4), (2, 4, 5)),
    "mv": (torch.mv, (3, 4), (4,)),
    "dot": (torch.dot, (4,), (4,)),
    "vdot": (torch.vdot, (4,), (4,)),
    "inner": (torch.inner, (3, 4), (2, 4)),
    "outer": (torch.outer, (3,), (4,)),
    "ger": (torch.ger, (3,), (4,)),
    "kron": (torch.kron, (2, 3), (3, 2)),
    "cross": (lambda a, b: torch.linalg.cross(a, b), (2, 3), (2, 3)),
    "vecdot": (lambda a, b: torch.linalg.vecdot(a, b), (2, 3), (2, 3)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 1), (2, 3), (3, 4)),
    "einsum": (lambda a, b: torch.einsum("nij,njk->nki", a, b), (2, 3, 4), (2, 4, 5)),
    "einsum list": (lambda a, b: torch.einsum("ij,jk->ik", [a, b]), (3, 4), (4, 5)),
    "F.linear": (F.linear, (2, 4), (3, 4)),
    "F.linear with bias": (lambda a, b: F.linear(a, b, torch.ones(3).double()), (2, 4), (3, 4)),
    "F.conv1d": (F.conv1d, (2, 3, 5), (4, 3, 2)),
    "F.conv2d": (lambda a, b: F.conv2d(a, b, None, 2, 1, 1, 2), (2, 4, 5, 5), (6, 2, 3, 3)),
    "F.conv3d": (F.conv3d, (1, 2, 3, 3, 3), (2, 2, 2, 2, 2)),
    "F.conv_transpose2d": (lambda a, b: F.conv_transpose2d(a, b, stride=2), (2, 3, 3, 3), (3, 2, 2, 2)),
    "F.bilinear": (lambda a, b: F.bilinear(a, b, randn(5, 3, 4)), (2, 3), (2, 4)),
    "chain_matmul": (lambda a, b: torch.linalg.multi_dot([a, randn(4, 4), b]), (3, 4), (4, 2)),
}


@pytest.mark.parametrize("name", TWO)
def test_product_of_two_inputs_gives_each_half(name):
    function, *shapes = TWO[name]
    a, b = (randn(*shape) for shape in shapes)
    value, found = gradients(function, a, b, explaining=True)
    plain, expected = gradients(shared(function, 2), a, b)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found, expected)


ALONE = [(name, i) for name in TWO for i in (0, 1)]


@pytest.mark.parametrize(("name", "position"), ALONE)
def test_product_with_a_constant_gives_the_input_all(name, position):
    function, *shapes = TWO[name]
    factors = [randn(*shape) for shape in shapes]

    def alone(x):
        return function(*(x if i == position else f.clone() for i, f in enumerate(factors)))

    value, found = gradients(alone, factors[position], explaining=True)
    plain, expected = gradients(alone, factors[position])  # linear in x as it is
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found, expected)


THREE = {
    "einsum": (lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c), (2, 3), (3, 4), (4, 5)),
    "einsum elements": (lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b, c), (2, 3), (2, 3), (2, 3)),
    "multi_dot": (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), (2, 3), (3, 4), (4, 5)),
    "bilinear": (F.bilinear, (2, 3), (2, 4), (5, 3, 4)),
}


@pytest.mark.parametrize("name", THREE)
def test_product_of_three_inputs_gives_each_a_third(name):
    function, *shapes = THREE[name]
    factors = [randn(*shape) for shape in shapes]
    value, found = gradients(function, *factors, explaining=True)
    plain, expected = gradients(shared(function, 3), *factors)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found, expected)


SQUARES = {
    "x * x": lambda x: x * x,
    "x.mul(x)": lambda x: x.mul(x),
    "einsum": lambda x: torch.einsum("ni,ni->ni", x, x),
    "square": lambda x: x.square(),
    "x ** 2": lambda x: x**2,
}


@pytest.mark.parametrize("name", SQUARES)
def test_square_is_x_times_a_frozen_x_however_it_is_written(name):
    x = randn(3, 4)
    value, (found,) = gradients(SQUARES[name], x, explaining=True)
    _, (expected,) = gradients(lambda v: v * x, x)
    torch.testing.assert_close(value, x * x)
    torch.testing.assert_close(found, expected)


QUOTIENTS = {
    "a / b": lambda a, b: a / b,
    "torch.div": torch.div,
    "a.divide(b)": lambda a, b: a.divide(b),
    "true_divide": torch.true_divide,
    "keywords": lambda a, b: torch.div(input=a, other=b),
    "a.div_(b)": lambda a, b: (a * 1).div_(b),
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_quotient_freezes_the_denominator(name):
    a, b = randn(3, 4), randn(4).abs() + 0.5
    value, found = gradients(QUOTIENTS[name], a, b, explaining=True)
    plain, (expected,) = gradients(lambda v: v * (1 / b), a)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found[0], expected)
    assert found[1] is None
    _, (by_constant,) = gradients(lambda v: QUOTIENTS[name](v, b), a, explaining=True)
    torch.testing.assert_close(by_constant, expected)


FROZEN_QUOTIENTS = {
    "3 / x": lambda x: 3 / x,
    "c / x": lambda x: torch.full((4,), 3.0).double() / x,
    "x // 0.3": lambda x: x // 0.3,
    "1 // x": lambda x: 1 // x,
    "x // x": lambda x: x // (x + 0.7),
    "floor": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "trunc": lambda x: x.div(0.3, rounding_mode="trunc"),
    "reciprocal": lambda x: x.reciprocal(),
}


@pytest.mark.parametrize("name", FROZEN_QUOTIENTS)
def test_reverse_and_floor_division_are_frozen(name):
    x = randn(3, 4).abs() + 0.5
    factor = FROZEN_QUOTIENTS[name](x)
    value, (found,) = gradients(lambda v: v * FROZEN_QUOTIENTS[name](v), x, explaining=True)
    plain, (expected,) = gradients(lambda v: v * factor, x)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found, expected)


def test_grid_sample_freezes_the_grid():
    images, grid = randn(2, 3, 4, 4), torch.tanh(randn(2, 3, 3, 2))
    value, found = gradients(lambda a, b: F.grid_sample(a, b, align_corners=False), images, grid, explaining=True)
    plain, expected = gradients(lambda a: F.grid_sample(a, grid, align_corners=False), images)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1] is None
    _, found = gradients(lambda g: g.sum() + F.grid_sample(images, g, align_corners=False), grid, explaining=True)
    torch.testing.assert_close(found[0], torch.full_like(grid, float(found[0].flatten()[0])))


@pytest.mark.parametrize("function", [F.prelu, torch.prelu, lambda x, w: x.prelu(w)])
def test_prelu_is_linear_on_either_side_with_a_frozen_slope(function):
    x, slope = randn(3, 4), randn(4)
    value, found = gradients(function, x, slope, explaining=True)
    plain, expected = gradients(lambda v: v * torch.where(x > 0, 1.0, slope), x)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1] is None


NETWORKS = {
    "bilinear": lambda x: F.bilinear(x, x, torch.ones(4, 4, 4).double(), torch.arange(4).double()),
    "hypernetwork": lambda x: torch.stack([F.linear(v, torch.outer(v.tanh(), v), torch.arange(4).double()) for v in x]),
    "gated": lambda x: (x + 1) * torch.sigmoid(x) * (x - 1),
    "second order": lambda x: torch.einsum("ni,nj,nk->ni", x + 1, x, x - 2),
    "quotient": lambda x: (x + 1) / (1 + x.abs().sum(1, keepdim=True)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_of_products_is_explained_completely(name):
    x = randn(3, 4)
    e = explain(Call(NETWORKS[name]), x, target=1)
    torch.testing.assert_close(e.score, NETWORKS[name](x)[:, 1])
    assert (e.residual.abs() < 1e-12).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.linear(x, torch.eye(4).double(), x.sum(0)),
        lambda x: F.conv1d(x[..., None], torch.eye(4).double()[..., None], x.sum(0)).flatten(1),
    ],
    ids=["linear", "conv"],
)
def test_bias_that_depends_on_the_input_is_explained_as_input(function):
    e = explain(Call(function), randn(1, 4), target=1)
    torch.testing.assert_close(e.weight, 2 * torch.eye(4).double()[[1]])
    torch.testing.assert_close(e.bias, torch.zeros(1).double())
