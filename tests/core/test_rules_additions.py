"""Sums, concatenations and selections: values as ever, every constant measured where it ends up."""

import math

import pytest
import torch
import torch.nn.functional as F
from rule_networks import COLUMN, MASK, C, K, Net, X, changed, column
from torch import nn

from bcos_core import explain

INF = math.inf
ALL = [[0, 1, 2, 3]] * 3


def check(function, bias, names, x=X):
    """Value as outside; exact; bias as computed by hand; under the names of what is added."""
    model = Net(function)
    with torch.no_grad():
        plain = model(x.clone())
    assert plain.shape == (3, 4)
    e = explain(model, x, target=ALL)
    torch.testing.assert_close(e.score, plain, rtol=0, atol=1e-14)
    assert (e.residual.abs() < 1e-12).all()
    torch.testing.assert_close(e.bias, torch.as_tensor(bias, dtype=torch.float64).expand(3, 4))
    assert {name for name, share in e.bias_terms.items() if share.any()} == (set(names.split(", ")) - {""})
    return e


SUMS = {
    "add number": (lambda m, x: torch.add(x, 2), 2.0, "constant"),
    "+ number": (lambda m, x: x + 2.5, 2.5, "constant"),
    "number +": (lambda m, x: 2.5 + x, 2.5, "constant"),
    "- number": (lambda m, x: x - 2, -2.0, "constant"),
    "number -": (lambda m, x: 2 - x, 2.0, "constant"),
    "sub number": (lambda m, x: x.sub(2, alpha=3), -6.0, "constant"),
    "+ integer tensor": (lambda m, x: x + torch.arange(4), [0.0, 1, 2, 3], "constant"),
    "- integer tensor": (lambda m, x: x - torch.arange(4), [0.0, -1, -2, -3], "constant"),
    "bool tensor": (lambda m, x: x + MASK, MASK.double(), "constant"),
    "add alpha": (lambda m, x: torch.add(x, m.c, alpha=-2), -2 * C, "c"),
    "constant add alpha": (lambda m, x: torch.add(m.c, x, alpha=-2), C, "c"),
    "rsub": (lambda m, x: torch.rsub(x, m.c, alpha=2), C, "c"),
    "rsub number": (lambda m, x: torch.rsub(x, 1.5), 1.5, "constant"),
    "c - x": (lambda m, x: m.c - x, C, "c"),
    "x - c": (lambda m, x: x - m.c, -C, "c"),
    "c - x - k": (lambda m, x: m.c - x - m.k, C - K, "c, k"),
    "sub_ alpha": (lambda m, x: (x * 1).sub_(m.c, alpha=2), -2 * C, "c"),
    "constant.add_": (lambda m, x: m.c.expand(3, 4).clone().add_(x), C, "c"),
    "column": (lambda m, x: x + m.c[:3, None], C[:3, None].expand(3, 4), "c"),
    "zero": (lambda m, x: x + 0 + torch.zeros(4), 0.0, ""),
    "two inputs": (lambda m, x: x + 2 * x - x.flip(1), 0.0, ""),
}

TOGETHER = {
    "cat": (lambda m, x: torch.cat([x[:, :2], m.c[2:].expand(3, 2)], 1), torch.cat([0 * C[:2], C[2:]]), "c"),
    "cat keyword": (lambda m, x: torch.cat(tensors=(m.c[:1].expand(3, 1), x[:, 1:]), dim=1), column(C[0], 0), "c"),
    "concat": (lambda m, x: torch.concat((x[:, :3], m.k.expand(3, 4)[:, 3:]), -1), column(K[3], 3), "k"),
    "stack": (lambda m, x: torch.stack([x, m.c.expand(3, 4), m.k.expand(3, 4)], 1).sum(1), C + K, "c, k"),
    "hstack": (lambda m, x: torch.hstack([x[:, :3], m.c[3:].expand(3, 1)]), column(C[3], 3), "c"),
    "vstack": (lambda m, x: torch.vstack([x[0], m.c, m.k]) + x - x, torch.stack([0 * C, C, K]), "c, k"),
    "where": (lambda m, x: torch.where(MASK, x, m.c), torch.where(MASK, 0, C), "c"),
    "where reversed": (lambda m, x: torch.where(MASK, m.c, x), torch.where(MASK, C, 0), "c"),
    "where number": (lambda m, x: torch.where(MASK, x, 2.0), torch.where(MASK, 0, 2.0), "constant"),
    "where keywords": (lambda m, x: torch.where(MASK, input=x, other=m.k), torch.where(MASK, 0, K), "k"),
    "maximum": (lambda m, x: torch.maximum(x, m.c), torch.where(X > C, 0, C), "c"),
    "max": (lambda m, x: torch.max(m.c, x), torch.where(X > C, 0, C), "c"),
    "minimum": (lambda m, x: x.minimum(m.c), torch.where(X < C, 0, C), "c"),
    "fmin": (lambda m, x: torch.fmin(x, m.c), torch.where(X < C, 0, C), "c"),
    "masked_fill": (lambda m, x: x.masked_fill(MASK, 2.0), torch.where(MASK, 2.0, 0), "constant"),
    "masked_fill zero": (lambda m, x: x.masked_fill(MASK, 0), 0.0, ""),
    "masked_fill_": (lambda m, x: (x * 1).masked_fill_(MASK, m.c[1]), torch.where(MASK, C[1], 0), "c"),
    "masked_scatter": (lambda m, x: x.masked_scatter(MASK[:1], m.c[:2].repeat(3)), MASK[:1] * C[[0, 0, 0, 1]], "c"),
    "scatter": (lambda m, x: x.scatter(1, COLUMN, m.c[:3, None]), column(C[:3]), "c"),
    "scatter_": (lambda m, x: (x * 1).scatter_(1, COLUMN, m.c[:3, None]), column(C[:3]), "c"),
    "scatter_add": (lambda m, x: x.scatter_add(1, COLUMN, m.c[:3, None]), column(C[:3]), "c"),
    "scatter into constant": (lambda m, x: m.c.expand(3, 4).scatter(1, COLUMN, x[:, :1]), C - column(C[2]), "c"),
    "index_add": (lambda m, x: x.index_add(1, COLUMN[0], m.c[:3, None], alpha=2), column(2 * C[:3]), "c"),
    "index_copy": (lambda m, x: x.index_copy(1, COLUMN[0], m.c[:3, None]), column(C[:3]), "c"),
    "index_put": (lambda m, x: x.index_put((torch.arange(3),), m.c.expand(3, 4)), C, "c"),
    "slice_scatter": (lambda m, x: x.slice_scatter(m.c[:3, None], 1, 2, 3), column(C[:3]), "c"),
    "select_scatter": (lambda m, x: m.c.expand(3, 4).select_scatter(x[:, 0], 1, 2), C - column(C[2]), "c"),
    "pad": (lambda m, x: F.pad(x[:, :2], (0, 2), value=2.0), [0.0, 0, 2, 2], "constant"),
    "pad crop": (lambda m, x: F.pad(x, (-1, 1), "constant", 3), [0.0, 0, 0, 3], "constant"),
    "pad zero": (lambda m, x: F.pad(x[:, :2], (0, 2)), 0.0, ""),
    "pad reflect": (lambda m, x: F.pad(x[:, :3], (0, 1), "reflect"), 0.0, ""),
    "ConstantPad1d": (lambda m, x: nn.ConstantPad1d((1, 0), -1.5)(x[:, None, :3])[:, 0], [-1.5, 0, 0, 0], "constant"),
    "pad before max pooling": (
        lambda m, x: F.max_pool1d(F.pad(x[:, None], (1, 1), value=-INF), 3, 1)[:, 0],
        0.0,
        "",
    ),
    "lerp": (lambda m, x: torch.lerp(x, m.c.expand(3, 4), 0.3), 0.3 * C, "c"),
    "lerp_": (lambda m, x: (x * 1).lerp_(m.c.expand(3, 4), m.k.abs()), K.abs() * C, "c"),
    "lerp from constant": (lambda m, x: torch.lerp(m.c.expand(3, 4), x, 0.3), 0.7 * C, "c"),
}

EYE = torch.eye(4).double()
PRODUCTS = {
    "addmm": (lambda m, x: torch.addmm(m.c, x, EYE, beta=2, alpha=3), 2 * C, "c"),
    "addmm input": (lambda m, x: torch.addmm(x, C[:3, None], m.k[None]), torch.outer(C[:3], K), "k"),
    "addmm_": (lambda m, x: (x * 1).addmm_(x, EYE, alpha=3), 0.0, ""),
    "addbmm": (lambda m, x: torch.addbmm(m.c.expand(3, 4), x.expand(2, 3, 4), EYE.expand(2, 4, 4)), C, "c"),
    "baddbmm": (lambda m, x: torch.baddbmm(m.c, x[:, None], EYE.expand(3, 4, 4), beta=0.5)[:, 0], C / 2, "c"),
    "addmv": (lambda m, x: torch.stack([torch.addmv(m.c, EYE, v, alpha=2) for v in x]), C, "c"),
    "addr": (lambda m, x: torch.addr(m.c.expand(3, 4), x[:, 0], m.k), C, "c"),
    "addcmul": (lambda m, x: torch.addcmul(m.c, x, m.k, value=2), C, "c"),
    "addcmul input": (lambda m, x: x.addcmul(m.c, m.k, value=2), 2 * C * K, "c"),
    "addcdiv": (lambda m, x: torch.addcdiv(m.c, x, m.k, value=2), C, "c"),
    "addcdiv_": (lambda m, x: (x * 1).addcdiv_(m.c, m.k, value=2), 2 * C / K, "c"),
}

CHANGES = {
    "copy_": (changed(lambda m, y: y.copy_(m.c)), C, "c"),
    "copy_ into constant": (lambda m, x: torch.full((3, 4), 5.0).double().copy_(x), 0.0, ""),
    "copy_ into a part": (changed(lambda m, y: y[:, :2].copy_(m.c[:2])), torch.cat([C[:2], 0 * C[2:]]), "c"),
    "[...] = constant": (changed(lambda m, y: y.__setitem__(..., m.c)), C, "c"),
    "[...] = number": (changed(lambda m, y: y.__setitem__(..., 2.0)), 2.0, "constant"),
    "[:, i:] = constant": (changed(lambda m, y: y.__setitem__((slice(None), slice(2, 3)), m.c[2])), column(C[2]), "c"),
    "[mask] = 0": (changed(lambda m, y: y.__setitem__(MASK, 0)), 0.0, ""),
    "fill_": (lambda m, x: (x * 1).fill_(2.0) + x, 2.0, "constant"),
    "zero_": (lambda m, x: (x * 1).zero_() + x, 0.0, ""),
}
CASES = SUMS | TOGETHER | PRODUCTS | CHANGES


@pytest.mark.parametrize("name", CASES)
def test_constant_is_measured_where_it_ends_up(name):
    check(*CASES[name])


def into(m, x):
    y = torch.ones(3, 4).double() * m.c
    y[:, :2] = x[:, 2:]
    return y


def test_constants_that_are_left_over_beside_an_assigned_input_are_measured():
    check(into, torch.cat([0 * C[:2], C[2:]]), "constant")


def test_log_softmax_subtracts_a_frozen_sum():
    for function in (F.log_softmax, torch.log_softmax, lambda x, d: x.log_softmax(d), lambda x, d: nn.LogSoftmax(d)(x)):
        e = check(
            lambda m, x, f=function: f(x * m.c, 1), 0 * X - (X * C).exp().sum(1, True).log(), "logsumexp (frozen)"
        )
        torch.testing.assert_close(e.weight, torch.diag(C).expand(3, 4, 4))
