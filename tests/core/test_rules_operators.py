"""Operators of torch.ops.aten, which exported programs are made of, go by the rules of their functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import BcosError, explain

aten = torch.ops.aten
PAIRS = {
    "softmax": (lambda x, w, b: aten.softmax.int(x, -1) * x, lambda x, w, b: F.softmax(x, -1) * x),
    "linear with a bias": (aten.linear.default, F.linear),
    "packet": (aten.linear, F.linear),
    "addmm": (lambda x, w, b: aten.addmm.default(b, x, w.t()), lambda x, w, b: torch.addmm(b, x, w.t())),
    "layer norm": (
        lambda x, w, b: aten.layer_norm.default(x, [6], None, b[:1].expand(6)),
        lambda x, w, b: F.layer_norm(x, [6], None, b[:1].expand(6)),
    ),
    "group norm": (
        lambda x, w, b: aten.group_norm.default(x, 2, w[0], w[1]),
        lambda x, w, b: F.group_norm(x, 2, w[0], w[1]),
    ),
    "batch norm": (
        lambda x, w, b: aten.batch_norm.default(x, w[0], w[1], w[2], w[3] ** 2, False, 0.1, 0.3, False),
        lambda x, w, b: F.batch_norm(x, w[2], w[3] ** 2, w[0], w[1], eps=0.3),
    ),
    "norm of the namespace torch": (
        lambda x, w, b: torch.instance_norm(x[..., None, None], w[0], w[1], w[2], w[3] ** 2, False, 0.1, 0.3, False),
        lambda x, w, b: F.instance_norm(x[..., None, None], w[2], w[3] ** 2, w[0], w[1], False, eps=0.3),
    ),
    "gelu": (lambda x, w, b: aten.gelu.default(x), lambda x, w, b: F.gelu(x)),
    "silu": (lambda x, w, b: aten.silu.default(x), lambda x, w, b: F.silu(x)),
    "in place": (lambda x, w, b: aten.add_.Tensor(x * 2, 3.0), lambda x, w, b: (x * 2).add_(3.0)),
    "concatenation": (lambda x, w, b: aten.cat.default([x, x + 1], 1), lambda x, w, b: torch.cat([x, x + 1], 1)),
    "detach": (lambda x, w, b: aten.detach.default(x) * x, lambda x, w, b: x.detach() * x),
    "slice": (lambda x, w, b: aten.slice.Tensor(x, 1, 0, 3), lambda x, w, b: x[:, :3]),
}


class Two(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 6).double())
        self.bias = nn.Parameter(torch.randn(4).double())

    def forward(self, x):
        return self.function(x, self.weight, self.bias)


@pytest.mark.parametrize(("operator", "function"), PAIRS.values(), ids=PAIRS)
def test_operator_is_explained_as_its_function(operator, function):
    model, x = Two(operator), torch.randn(3, 6).double()
    e = explain(model, x, 1)
    model.function = function
    expected = explain(model, x, 1)
    torch.testing.assert_close(e.weight, expected.weight)
    assert e.bias_terms.keys() == expected.bias_terms.keys()
    assert e.probe is None


def test_operator_without_a_function_is_refused_by_name():
    with pytest.raises(BcosError, match=r"has no rule for .*_softmax"):
        explain(Two(lambda x, w, b: aten._softmax.default(x, -1, False) * x), torch.randn(3, 6).double(), 1)


def test_exported_program_is_explained_as_the_network():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4)
    )
    net = net.double().eval()
    x = torch.randn(2, 3, 7, 7).double()
    exported = torch.export.export(net, (x,)).module()
    e, expected = explain(exported, x, 2), explain(net, x, 2)
    torch.testing.assert_close(e.weight, expected.weight)
    torch.testing.assert_close(e.bias, expected.bias)


def test_view_may_be_asked_for_its_base():
    def function(x, w, b):
        view = x[:, :3]
        assert view._base is not None
        return view

    assert explain(Two(function), torch.randn(3, 6).double(), 1).weight[0].tolist() == [0, 1, 0, 0, 0, 0]


def test_what_is_looked_up_has_the_name_of_the_table():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("position_ids", torch.arange(6))
            self.table = nn.Embedding(6, 6)

        def forward(self, x):
            return x + self.table(self.position_ids[:1])

    assert list(explain(Positions(), torch.randn(3, 6), 1).bias_terms) == ["table.weight"]
