"""Constants whose shape is not that of the input's samples, and tensors changed in place or in part."""

import math

import pytest
import torch
import torch.nn.functional as F
from rule_networks import COLUMN, MASK, C, Net, X, changed, column

from bcos_core import explain


def check(function, bias):
    model = Net(function)
    with torch.no_grad():
        plain = model(X.clone())
    e = explain(model, X, target=[list(range(plain.shape[1]))] * 3)
    torch.testing.assert_close(e.score, plain, rtol=0, atol=1e-14)
    assert (e.residual.abs() < 1e-12).all()
    torch.testing.assert_close(e.bias, torch.as_tensor(bias, dtype=torch.float64).expand(plain.shape))
    return e


def row(value):
    bias = torch.zeros(3, 4).double()
    bias[2] = torch.as_tensor(value)
    return bias


def assigned(index, value):
    return changed(lambda m, y: y.__setitem__(index, value(m) if callable(value) else value))


ALL = slice(None)
PLACES = {
    "cat of rows": (lambda m, x: torch.cat([x[:1], m.c[None], x[2:]]), torch.stack([0 * C, C, 0 * C])),
    "vstack of rows": (lambda m, x: torch.vstack([x[:2], m.c]), row(C)),
    "column_stack": (lambda m, x: torch.column_stack([x[:, :2], m.c[:3], x[:, 3]]), column(C[:3])),
    "block_diag": (lambda m, x: torch.block_diag(x[:2, :2], m.c[None, :2]), row([0.0, 0, *C[:2]])),
    "[i] = number": (assigned(2, 1.5), row(1.5)),
    "[i] = constant": (assigned(2, lambda m: m.c), row(C)),
    "[:, i] = number": (assigned((ALL, 2), 1.5), column(1.5)),
    "[:, i] = constant": (assigned((ALL, 2), lambda m: m.c[:3]), column(C[:3])),
    "[mask] = number": (assigned(MASK, -1.5), torch.where(MASK, -1.5, 0)),
    "[mask] = constants": (assigned(MASK, lambda m: m.c.repeat(2)[:6]), "see below"),
    "index_put": (lambda m, x: x.index_put((torch.tensor([2]), torch.tensor([1])), m.c[:1]), "see below"),
    "index_add to a row": (lambda m, x: x.index_add(0, torch.tensor([2]), m.c[None]), row(C)),
    "index_copy to a row": (lambda m, x: x.index_copy(0, torch.tensor([2]), m.c[None]), row(C)),
    "select_scatter": (lambda m, x: x.select_scatter(m.c[:3], 1, 2), column(C[:3])),
    "diagonal_scatter": (lambda m, x: x.diagonal_scatter(m.c[:3]), torch.diag(C)[:3]),
    "scatter of a number": (lambda m, x: x.scatter(1, COLUMN, 1.5), column(1.5)),
    "index_fill": (lambda m, x: x.index_fill(1, COLUMN[0], 1.5), column(1.5)),
    "x.where": (lambda m, x: x.where(MASK, m.c), torch.where(MASK, 0, C)),
    "addbmm of a row": (
        lambda m, x: torch.addbmm(m.c, x.expand(2, 3, 4), torch.eye(4).double().expand(2, 4, 4)),
        C,
    ),
    "pad of the batch": (lambda m, x: F.pad(x[:2], (0, 0, 0, 1), value=1.5), row(1.5)),
    "zero_ of a part": (changed(lambda m, y: y[:, 2].zero_()), 0.0),
    "fill_ of a part": (changed(lambda m, y: y[:, 2].fill_(1.5)), column(1.5)),
    "diff": (
        lambda m, x: torch.diff(x, prepend=m.c[:3, None]),
        -torch.diag(torch.ones(4))[:1].double() * C[:3, None],
    ),
    "complex": (
        lambda m, x: torch.complex(x, m.c.expand(3, 4)).imag,
        C,
    ),
    "mul_ of a part by 0": (changed(lambda m, y: y[:, 2].mul_(0).add_(1.5)), column(1.5)),
    "silu of a part": (changed(lambda m, y: F.silu(y[:, 2:], inplace=True)), 0.0),
}
EXPECTED = {
    "[mask] = constants": torch.zeros(3, 4).double().masked_scatter(MASK, C.repeat(2)),
    "index_put": torch.zeros(3, 4).double().index_put((torch.tensor([2]), torch.tensor([1])), C[0]),
}


@pytest.mark.parametrize("name", PLACES)
def test_constant_of_any_shape_is_measured_where_it_ends_up(name):
    function, bias = PLACES[name]
    check(function, EXPECTED.get(name, bias))


@pytest.mark.parametrize(
    "function", [lambda m, x: x.float() + m.c, lambda m, x: torch.where(MASK, x.float(), m.c)], ids=["+", "where"]
)
def test_constant_of_higher_precision_keeps_its_precision(function):
    model = Net(function)
    e = explain(model, X, target=1)
    assert e.logits.dtype == model(X).dtype
    torch.testing.assert_close(e.logits, model(X).detach(), rtol=0, atol=0)


def test_complex_constant_beside_a_real_input_keeps_its_imaginary_part():
    check(lambda m, x: (x + 1j * m.c).imag, C)


def test_log_softmax_computes_in_the_given_type():
    model = Net(lambda m, x: torch.log_softmax(x.float(), 1, torch.float64))
    e = explain(model, X, target=1)
    torch.testing.assert_close(e.logits, model(X).detach())


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_log_softmax_without_a_dimension_takes_that_of_pytorch():
    x = X[..., None, None].repeat(1, 1, 2, 2)
    model = Net(lambda m, x: F.log_softmax(x).flatten(1))
    e = explain(model, x, target=1)
    torch.testing.assert_close(e.logits, model(x).detach())


def test_filling_with_what_depends_on_the_input_depends_on_it():
    e = explain(Net(lambda m, x: torch.zeros(1, 2).double().fill_(x.sum()) + 0 * x[:, :2]), X[:1], target=1)
    torch.testing.assert_close(e.weight, torch.ones(1, 4).double())
    assert not e.bias.any()


@pytest.mark.parametrize("value", [-math.inf, 2.0])
def test_padding_before_max_pooling_is_measured_only_if_it_wins(value):
    x = X[:, None]
    e = explain(Net(lambda m, v: F.max_pool1d(F.pad(v, (1, 1), value=value), 3, 1)[:, 0]), x, target=[[0, 1, 2, 3]] * 3)
    padded = F.pad(X, (1, 1), value=value)
    winners = torch.stack([padded[:, i : i + 3].amax(1) for i in range(4)], 1)
    torch.testing.assert_close(e.score, winners)
    border = torch.tensor([True, False, False, True]) & (winners == value)
    torch.testing.assert_close(e.bias, torch.where(border, winners, 0))
