"""Functions that the table does not list: called if they prove linear, else refused by name; rules of one's own."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import BcosError, explain, explanation_mode
from bcos_core.rules import AS_IT_IS, register_rules
from bcos_core.rules.table import COMPOSITIONS, IN_PLACE_COMPOSITIONS, LINEAR, RULES

X = torch.tensor([[0.3, 1.2, 2.5, 0.7], [1.6, 0.2, 0.9, 3.1], [0.4, 2.2, 1.1, 0.05]]).double()
LISTED = [RULES, COMPOSITIONS, IN_PLACE_COMPOSITIONS, LINEAR]


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.c = nn.Parameter(torch.tensor([0.5, 1.2, 2.0, 0.3]).double())
        self.function = function

    def forward(self, x):
        return self.function(self, x)


@pytest.fixture(autouse=True)
def table():
    """Rules that a test registers are gone after it."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def weights(function, x=X):
    leaf = x.clone().requires_grad_()
    with explanation_mode(nn.Identity()):
        y = function(leaf.clone())
        return y.detach(), torch.autograd.grad(y.sum(), leaf)[0]


TRAPEZOID = torch.tensor([[1, 1, 0, 0], [1, 2, 1, 0], [1, 2, 2, 1]]).double() / 2
DIFFERENCES = torch.tensor([[-2, 2, 0, 0], [-1, 0, 1, 0], [0, -1, 0, 1], [0, 0, -2, 2]]).double() / 2
LINEAR_CALLS = {
    torch.cumulative_trapezoid: (lambda x: torch.cumulative_trapezoid(x, dim=1), TRAPEZOID),
    torch.trapezoid: (lambda x: torch.trapezoid(x, dim=1)[:, None], TRAPEZOID[2:]),
    torch.gradient: (lambda x: torch.gradient(x, dim=1)[0], DIFFERENCES),
    torch.constant_pad_nd: (lambda x: torch.constant_pad_nd(x, (-1, 0)), torch.eye(4).double()[1:]),
    torch.Tensor.sum_to_size: (lambda x: x.sum_to_size(3, 1), torch.ones(1, 4).double()),
    torch.nan_to_num: (lambda x: torch.nan_to_num(x), torch.eye(4).double()),
}


@pytest.mark.parametrize("function", LINEAR_CALLS, ids=lambda f: f.__name__)
def test_linear_function_without_a_rule_is_called(function):
    assert not any(function in listed for listed in LISTED)
    call, matrix = LINEAR_CALLS[function]
    torch.testing.assert_close(call(X), X @ matrix.T)
    e = explain(Call(lambda m, x: call(x)), X, target=[list(range(len(matrix)))] * 3)
    torch.testing.assert_close(e.score, X @ matrix.T)
    torch.testing.assert_close(e.weight, matrix.expand(3, *matrix.shape))
    assert e.bias_terms == {}


def test_linear_function_without_a_rule_is_called_in_single_precision():
    e = explain(Call(lambda m, x: torch.cumulative_trapezoid(x, dim=1)), X.float(), target=1)
    torch.testing.assert_close(e.weight, TRAPEZOID[1].float().expand(3, 4))


def test_trying_a_function_out_draws_no_random_numbers():
    state = torch.get_rng_state()
    explain(Call(lambda m, x: torch.cumulative_trapezoid(x, dim=1)), X, target=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_function_without_a_rule_says_of_shapes_and_values_is_no_matter_of_rules():
    def function(m, x):
        assert x.size(0) == 3
        assert x.numel() == 12
        assert x.isfinite().all()
        assert torch.equal(x.argsort(1), X.argsort(1))
        return x * (x > 1) + torch.zeros_like(x)

    e = explain(Call(function), X, target=1)
    torch.testing.assert_close(e.contributions.sum(1), (X * (X > 1))[:, 1])


NONLINEAR = {
    "torch.lgamma": lambda m, x: torch.lgamma(x),
    "torch.Tensor.lgamma": lambda m, x: x.lgamma(),
    "torch.special.erfcx": lambda m, x: torch.special.erfcx(x),
    "torch.prod": lambda m, x: torch.prod(x, 1, keepdim=True),
    "torch.cumprod": lambda m, x: torch.cumprod(x, 1),
    "torch.tan": lambda m, x: torch.tan(x),
    "torch.hypot": lambda m, x: torch.hypot(x, m.c),
    "torch.Tensor.remainder": lambda m, x: x.remainder(0.5),
    "torch.logaddexp": lambda m, x: torch.logaddexp(x, m.c),
    "torch.constant_pad_nd": lambda m, x: torch.constant_pad_nd(x, (0, 1), 2.0),
    "torch.cumulative_trapezoid": lambda m, x: torch.cumulative_trapezoid(x, x),
    "torch.Tensor.lgamma_": lambda m, x: (x * 1).lgamma_(),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear_function_without_a_rule_is_refused_by_name(name):
    with pytest.raises(BcosError) as refusal:
        explain(Call(NONLINEAR[name]), X, target=0)
    message = str(refusal.value)
    operation = message.split("no rule for ")[1].split(", called ")[0]
    assert operation == name
    assert "called in Call, " in message
    assert "register_rules" in message
    assert "not linear" in message


def test_refusal_names_the_module_that_called():
    block = nn.Sequential(OrderedDict(first=nn.Linear(4, 4).double(), second=Call(lambda m, x: torch.lgamma(x))))
    model = nn.Sequential(nn.ReLU(), nn.ModuleDict({"block": block})["block"])
    with pytest.raises(BcosError, match=r"torch\.lgamma, called in module '1\.second' \(Call\)"):
        explain(model, X, target=0)


def test_refusal_names_the_class_of_a_module_that_is_not_part_of_the_model():
    inner = [Call(lambda m, x: torch.lgamma(x))]
    with pytest.raises(BcosError, match=r"torch\.lgamma, called in Call, "):
        explain(nn.Sequential(Call(lambda m, x: inner[0](x))), X, target=0)


def test_refusal_outside_of_modules_says_so():
    leaf = X.clone().requires_grad_()
    with explanation_mode(nn.Identity()), pytest.raises(BcosError, match="called outside of any module"):
        torch.lgamma(leaf)


def as_gate(function, x):
    return x * (function(x) / x).detach()


def test_registered_rule_is_applied():
    model = Call(lambda m, x: torch.lgamma(x) + m.c)
    with pytest.raises(BcosError, match="lgamma"):
        explain(model, X, target=1)
    register_rules({torch.lgamma: as_gate})
    e = explain(model, X, target=1)
    torch.testing.assert_close(e.score, torch.lgamma(X)[:, 1] + 1.2)
    torch.testing.assert_close(e.weight[:, 1], (torch.lgamma(X) / X)[:, 1])
    torch.testing.assert_close(e.bias_terms["c"], torch.full((3,), 1.2).double())


def test_function_and_method_are_two():
    register_rules({torch.lgamma: as_gate})
    with pytest.raises(BcosError, match=r"torch\.Tensor\.lgamma"):
        explain(Call(lambda m, x: x.lgamma()), X, target=1)
    register_rules({torch.Tensor.lgamma: as_gate})
    e = explain(Call(lambda m, x: x.lgamma()), X, target=1)
    torch.testing.assert_close(e.contributions[:, 1], torch.lgamma(X)[:, 1])


def test_function_that_is_registered_as_it_is_keeps_its_gradient():
    register_rules({torch.lgamma: AS_IT_IS, torch.Tensor.cumsum_: AS_IT_IS})
    value, gradient = weights(torch.lgamma)
    torch.testing.assert_close(value, torch.lgamma(X))
    torch.testing.assert_close(gradient, torch.digamma(X))
    value, gradient = weights(lambda x: x.cumsum_(1))
    torch.testing.assert_close(value, X.cumsum(1))
    torch.testing.assert_close(gradient, torch.tensor([4.0, 3, 2, 1]).double().expand(3, 4))


@pytest.mark.parametrize("function", [torch.sigmoid, torch.relu, torch.log_softmax], ids=lambda f: f.__name__)
def test_registered_rule_replaces_the_one_there_is(function):
    args = (1,) if function is torch.log_softmax else ()
    register_rules({function: lambda f, x, *args: 3 * x})
    value, gradient = weights(lambda x: function(x, *args))
    torch.testing.assert_close(value, 3 * X)
    torch.testing.assert_close(gradient, torch.full_like(X, 3))


def test_rule_is_not_called_outside_of_explanation_mode_nor_for_constants():
    def refuse(function, *args):
        raise AssertionError

    register_rules({torch.lgamma: refuse})
    torch.testing.assert_close(torch.lgamma(X), X.lgamma())
    e = explain(Call(lambda m, x: x * torch.lgamma(m.c)), X, target=1)
    torch.testing.assert_close(e.weight[:, 1], torch.lgamma(torch.tensor(1.2).double()).expand(3))


NO_RULES = [{torch.lgamma: 3}, {torch.lgamma: None}, {"lgamma": AS_IT_IS}, {torch.lgamma: AS_IT_IS, torch.tan: "tan"}]


@pytest.mark.parametrize("rules", NO_RULES, ids=["a number", "nothing", "a name", "one of two"])
def test_what_is_not_callable_is_refused_and_nothing_registered(rules):
    before = dict(RULES)
    with pytest.raises(BcosError, match="a rule maps a function to a function"):
        register_rules(rules)
    assert before == RULES


CONSTANTS = {
    "lgamma": lambda c: torch.lgamma(c),
    "erfcx": lambda c: torch.special.erfcx(c),
    "softmax": lambda c: c.softmax(0),
    "in place": lambda c: (c * 1).lgamma_().sigmoid_(),
    "norm": lambda c: F.layer_norm(c, (4,)),
    "product": lambda c: c * c / c.sum(),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_functions_of_constants_are_never_touched(name):
    model = Call(lambda m, x: x + CONSTANTS[name](m.c))
    e = explain(model, X, target=1)
    torch.testing.assert_close(e.bias, CONSTANTS[name](model.c)[1].detach().expand(3))
    torch.testing.assert_close(e.weight, torch.eye(4).double()[1].expand(3, 4))
    leaf = X.clone().requires_grad_()
    with explanation_mode(model):
        inside = torch.autograd.grad(model(leaf).sum(), model.c)[0]
    torch.testing.assert_close(inside, torch.autograd.grad(model(X).sum(), model.c)[0], rtol=0, atol=0)


def test_explanation_mode_without_an_input_that_requires_a_gradient_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), Call(lambda m, x: torch.lgamma(x.abs() + 1) * x.softmax(1) * x))
    model = model.append(nn.LayerNorm(4)).append(nn.Softplus()).double()

    def everything():
        y = model(X)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()), allow_unused=True)]

    expected = everything()
    with explanation_mode(model):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None)
