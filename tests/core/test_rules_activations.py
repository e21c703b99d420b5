"""Activations in explanation mode, against their formulas: ``x`` times a frozen gate, plus the value at 0."""

import math

import pytest
import torch
import torch.nn.functional as F
from rule_networks import Call, weights
from torch import nn

from bcos_core import explain

X = torch.tensor([[-4.0, -2.0, -0.7, -0.3, -1e-3, 0.0], [1e-3, 0.2, 0.6, 0.9, 3.2, 7.0]]).double()
POSITIVE = X.abs() + 0.1
NAMESPACES = {"torch": torch, "Tensor": torch.Tensor, "F": F, "special": torch.special}


def gate(f, x):
    """(f(x) - f(0))/x, which is 0 where x is."""
    return torch.where(x == 0, 0, (f(x) - f(torch.zeros_like(x))) / x)


SELU = (1.6732632423543772, 1.0507009873554805)
ACTIVATIONS = {
    "gelu": (lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2, ()),
    "silu": (lambda x: x / (1 + torch.exp(-x)), ()),
    "mish": (lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), ()),
    "hardswish": (lambda x: x * (x + 3).clamp(0, 6) / 6, ()),
    "elu": (lambda x: torch.where(x > 0, x, 0.5 * (torch.exp(x) - 1)), (0.5,)),
    "selu": (lambda x: SELU[1] * torch.where(x > 0, x, SELU[0] * (torch.exp(x) - 1)), ()),
    "celu": (lambda x: torch.where(x > 0, x, 0.5 * (torch.exp(x / 0.5) - 1)), (0.5,)),
    "relu6": (lambda x: torch.where(x < 0, 0, torch.where(x > 6, 6, x)), ()),
    "hardtanh": (lambda x: torch.where(x < -0.5, -0.5, torch.where(x > 2, 2, x)), (-0.5, 2.0)),
    "softsign": (lambda x: x / (1 + x.abs()), ()),
    "tanhshrink": (lambda x: x - (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1), ()),
    "softshrink": (lambda x: x.sign() * torch.where(x.abs() > 0.4, x.abs() - 0.4, 0), (0.4,)),
    "tanh": (lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1), ()),
    "erf": (lambda x: 1 - torch.erfc(x), ()),
    "expm1": (lambda x: torch.exp(x) - 1, ()),
    "log1p": (lambda x: torch.log(1 + x), ()),
    "sin": (lambda x: torch.cos(x - math.pi / 2), ()),
    "sinh": (lambda x: (torch.exp(x) - torch.exp(-x)) / 2, ()),
    "atan": (lambda x: torch.atan2(x, torch.ones_like(x)), ()),
    "arctan": (lambda x: torch.atan2(x, torch.ones_like(x)), ()),
    "asinh": (lambda x: x.sign() * torch.log(x.abs() + (x * x + 1).sqrt()), ()),
    "square": (lambda x: x * x, ()),
    "softplus": (lambda x: torch.log(1 + torch.exp(2 * x)) / 2, (2.0,)),
    "logsigmoid": (lambda x: -torch.log(1 + torch.exp(-x)), ()),
    "threshold": (lambda x: torch.where(x > 0.5, x, 2.0), (0.5, 2.0)),
    "clamp": (lambda x: torch.where(x < 0.5, 0.5, torch.where(x > 2, 2.0, x)), (0.5, 2.0)),
    "clip": (lambda x: torch.where(x < -3, -3, torch.where(x > -1, -1, x)), (-3.0, -1.0)),
    "clamp_min": (lambda x: torch.where(x < 0.25, 0.25, x), (0.25,)),
    "clamp_max": (lambda x: torch.where(x > 1, 1.0, x), (1.0,)),
    "hardtanh12": (lambda x: torch.where(x < 1, 1.0, torch.where(x > 2, 2.0, x)), (1.0, 2.0)),
}
OFFSETS = ["softplus", "logsigmoid", "threshold", "clamp", "clip", "clamp_min", "hardtanh12"]


def domain(name):
    return POSITIVE if name == "log1p" else X


def forms():
    """All functions, methods and in-place forms of each activation, as they are named in PyTorch."""
    for name in ACTIVATIONS:
        base = name.removesuffix("12")
        for place, namespace in NAMESPACES.items():
            for form in (base, f"{base}_"):
                if callable(getattr(namespace, form, None)):
                    yield pytest.param(name, getattr(namespace, form), form[-1] == "_", id=f"{name}-{place}.{form}")


@pytest.mark.parametrize(("name", "function", "in_place"), list(forms()))
def test_every_form_of_an_activation_is_x_times_a_frozen_gate(name, function, in_place):
    definition, args = ACTIVATIONS[name]
    x = domain(name)

    def called(v):
        result = function(v, *args)
        assert (result is v) == in_place
        return v if in_place else result

    value, gradient = weights(called, x)
    torch.testing.assert_close(value, definition(x))
    torch.testing.assert_close(value, function(x.clone(), *args), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, gate(definition, x))


INPLACE_MODULES = {
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "threshold": nn.Threshold,
}


@pytest.mark.parametrize("name", INPLACE_MODULES)
def test_module_with_inplace_changes_its_input_and_has_the_same_gate(name):
    definition, args = ACTIVATIONS[name]
    module = INPLACE_MODULES[name](*args, inplace=True)

    def called(v):
        module(v)
        return v

    value, gradient = weights(called, X)
    torch.testing.assert_close(value, definition(X))
    torch.testing.assert_close(gradient, gate(definition, X))


LINEAR_ON_EITHER_SIDE = {
    "relu": (lambda x: x.clamp(min=0), [F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu_]),
    "leaky_relu": (lambda x: torch.where(x > 0, x, 0.01 * x), [F.leaky_relu, F.leaky_relu_]),
    "abs": (lambda x: x * x.sign(), [torch.abs, torch.Tensor.abs_]),
    "hardshrink": (lambda x: torch.where(x.abs() > 0.5, x, 0), [F.hardshrink, torch.hardshrink]),
}


@pytest.mark.parametrize("name", LINEAR_ON_EITHER_SIDE)
def test_piecewise_linear_activation_has_its_slope(name):
    definition, functions = LINEAR_ON_EITHER_SIDE[name]
    for function in functions:
        value, gradient = weights(function, X)
        torch.testing.assert_close(value, definition(X))
        torch.testing.assert_close(gradient[X != 0], gate(definition, X)[X != 0])


@pytest.mark.parametrize("name", OFFSETS)
def test_value_at_zero_of_an_activation_is_a_constant(name):
    definition, args = ACTIVATIONS[name]
    function = getattr(F, name.removesuffix("12"), None) or getattr(torch, name)
    e = explain(Call(lambda x: function(x, *args)), X, target=3)
    at_zero = definition(torch.zeros(2).double())
    assert at_zero.all()
    torch.testing.assert_close(e.bias_terms["constant"], at_zero)
    torch.testing.assert_close(e.score, definition(X)[:, 3])
    assert (e.residual.abs() < 1e-12).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_network_with_any_activation_is_explained_completely(name):
    definition, args = ACTIVATIONS[name]
    function = getattr(F, name.removesuffix("12"), None) or getattr(torch, name)
    first, last = nn.Linear(4, 8).double(), nn.Linear(8, 3).double()
    x = torch.rand(5, 4).double() if name == "log1p" else torch.randn(5, 4).double()
    if name == "log1p":
        nn.init.uniform_(first.weight, 0, 1)
        nn.init.uniform_(first.bias, 0, 1)
    e = explain(nn.Sequential(first, Call(lambda v: function(v, *args)), last), x, target=1)
    torch.testing.assert_close(e.score, last(definition(first(x)))[:, 1].detach())
    gates = gate(definition, first(x)).detach()
    torch.testing.assert_close(e.weight, (gates * last.weight[1].detach()) @ first.weight.detach())
    assert (e.residual.abs() < 1e-12).all()


BOUNDS = {
    "clamp": lambda x, low, high: torch.clamp(x, low, high),
    "clamp keywords": lambda x, low, high: x.clamp(min=low, max=high),
    "clamp_": lambda x, low, high: (x * 1).clamp_(low, high),
    "clip": lambda x, low, high: x.clip(low, high),
    "clamp_min, clamp_max": lambda x, low, high: x.clamp_min(low).clamp_max(high),
    "maximum, minimum": lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
}


BOUND_CASES = [(name, which) for name in BOUNDS for which in ("both", "low", "high", "input")]
BOUND_CASES.remove(("clamp_min, clamp_max", "low"))  # there, one of the two has a constant bound: an activation
BOUND_CASES.remove(("clamp_min, clamp_max", "high"))


@pytest.mark.parametrize(("name", "bounds"), BOUND_CASES, ids=[f"{name}-depends: {b}" for name, b in BOUND_CASES])
def test_bounds_that_depend_on_the_input_are_selected_as_the_input_is(name, bounds):
    x = torch.randn(4, 6).double()
    low, high = torch.full((6,), -0.4).double(), torch.full((6,), 0.6).double()

    def bound(v, depends):
        v1 = torch.full_like(v, 0.1) if bounds == "input" else v
        return v1, (0.2 * v - 0.5 if "low" in depends else low), (0.5 + 0.3 * v if "high" in depends else high)

    depends = {"both": "low high", "input": "low high"}.get(bounds, bounds)
    value, gradient = weights(lambda v: BOUNDS[name](*bound(v, depends)), x)
    value_at, lower, upper = bound(x, depends)
    slope = torch.full_like(x, 0.0 if bounds == "input" else 1.0)
    below, above = value_at < lower, value_at > upper
    slope = torch.where(below, 0.2 if "low" in depends else 0.0, slope)
    slope = torch.where(above, 0.3 if "high" in depends else 0.0, slope)
    torch.testing.assert_close(value, torch.where(below, lower, torch.where(above, upper, value_at)))
    torch.testing.assert_close(gradient, slope)
    e = explain(Call(lambda v: BOUNDS[name](*bound(v, depends))), x, target=[[0, 1, 2, 3, 4, 5]] * 4)
    assert (e.residual.abs() < 1e-12).all()


def test_constant_tensor_bounds_are_measured_through_the_value_at_zero():
    low = torch.tensor([-1.0, 0.5, 0.2, -3.0]).double()
    x = torch.tensor([[-2.0, 0.1, 4.0, -2.0]]).double()
    e = explain(Call(lambda v: v.clamp(min=low)), x, target=[[0, 1, 2, 3]])
    torch.testing.assert_close(e.bias, torch.tensor([[0.0, 0.5, 0.2, 0.0]]).double())
    torch.testing.assert_close(e.contributions.sum(2), torch.tensor([[-1.0, 0.0, 3.8, -2.0]]).double())


def test_gated_linear_unit_is_a_product_with_a_frozen_gate():
    model, x = Call(F.glu), torch.randn(3, 4).double()
    e = explain(model, x, target=1)
    torch.testing.assert_close(e.score, x[:, 1] * x[:, 3].sigmoid())
    torch.testing.assert_close(e.weight[:, 1], x[:, 3].sigmoid())
    assert not e.weight[:, [0, 2, 3]].any()
