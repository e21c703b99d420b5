"""Explanation mode sees a B-cos transform as one call, where it may."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bcos_core import BcosConv2d, BcosLinear, explain
from bcos_core.functional import bcos_linear
from bcos_core.norms import BatchNormUncentered2d
from bcos_core.rules import dispatch


@pytest.fixture
def calls(monkeypatch):
    """The functions that explanation mode has looked up."""
    seen = []
    apply = dispatch.RuleDispatch._apply

    def noted(self, func, args, kwargs):
        seen.append(func.__name__)
        return apply(self, func, args, kwargs)

    monkeypatch.setattr(dispatch.RuleDispatch, "_apply", noted)
    return seen


@pytest.mark.parametrize(
    ("layer", "shape"), [(BcosConv2d(6, 5, 3, padding=1), (2, 6, 8, 8)), (BcosLinear(6, 5), (2, 6))]
)
def test_transform_is_one_call(layer, shape, calls):
    explain(layer, torch.rand(shape) + 0.1, lambda z: z.flatten(1).sum(1))
    assert len([name for name in calls if "bcos" in name]) == 1
    assert not {"conv2d", "linear", "vector_norm", "linalg_vector_norm", "abs"} & set(calls)


def test_max_out_is_looked_into_for_it_selects(calls):
    explain(BcosLinear(6, 5, max_out=2), torch.rand(2, 6), probe=True)
    assert "linear" in calls
    assert "max" in calls


class OwnWeight(nn.Module):
    """Its weight depends on its input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        return bcos_linear(x, self.weight * x[:1, :1])


def test_weight_that_depends_on_the_input_is_looked_into(calls):
    explanation = explain(OwnWeight(), torch.rand(1, 6) + 0.1, probe=True)
    assert "linear" in calls
    torch.testing.assert_close(explanation.contributions.sum(1) + explanation.bias, explanation.score)


class OwnScale(nn.Module):
    """The weight of its norm depends on its input."""

    def __init__(self):
        super().__init__()
        self.norm = BatchNormUncentered2d(6)

    def forward(self, x):
        return functional_call(self.norm, {"weight": x.mean((0, 2, 3))}, (x,)).mean((2, 3))


def test_scale_of_a_norm_that_depends_on_the_input_is_looked_into(calls):
    explanation = explain(OwnScale().eval(), torch.rand(1, 6, 4, 4) + 0.1, probe=True)
    assert "_scaled" not in calls
    assert "mul" in calls or "__mul__" in calls
    torch.testing.assert_close(explanation.map.sum((1, 2)) + explanation.bias, explanation.score)


def test_weight_by_keyword_is_the_same():
    x, weight = torch.rand(1, 6) + 0.1, torch.randn(5, 6)
    first = explain(Given(lambda x: bcos_linear(x, weight)), x)
    second = explain(Given(lambda x: bcos_linear(x, weight=weight)), x)
    torch.testing.assert_close(first.weight, second.weight)


class Given(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
def test_frozen_factor_is_held_for_the_probe(b):
    torch.manual_seed(0)
    network = nn.Sequential(BcosConv2d(6, 8, 3, b=b), nn.ReLU(), BcosConv2d(8, 5, 3, b=b, groups=1)).double()
    explanation = explain(network, torch.rand(2, 6, 8, 8).double(), lambda z: z[:, 0].sum((1, 2)), probe=True)
    assert float(explanation.probe.max()) < 1e-12
