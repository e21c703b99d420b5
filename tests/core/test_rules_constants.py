"""What is computed from parameters alone stays a constant, under its parameter's name, until the input is in it."""

import pytest
import torch
import torch.nn.functional as F
from rule_networks import MASK, C, Net, X

from bcos_core import explain, explanation_mode


def found_gradient(function):
    leaf = X.clone().requires_grad_()
    model = Net(function)
    with explanation_mode(model):
        return torch.autograd.grad(model(leaf).sum(), leaf)[0]


BESIDE = (
    "a result of constants alone is neither marked nor named if an argument that gives its shape depends on the input"
)
LIST = "names are passed on to tensors, not to lists of them"
DERIVED = {
    "expand": lambda c, x: c.expand(3, 4),
    "index": lambda c, x: c[torch.arange(4)],
    "to a type": lambda c, x: c.float().to(x.dtype),
    "expand_as": lambda c, x: c.expand_as(x),
    "reshape_as": lambda c, x: c.repeat(3).reshape_as(x),
    "type_as": lambda c, x: c.float().type_as(x),
    "to": lambda c, x: c.float().to(x),
}
IN_LISTS = {
    "chunk": lambda c, x: c.expand(3, 4).chunk(1)[0],
    "split": lambda c, x: c.repeat(2).split(4)[1],
    "unbind": lambda c, x: c.expand(2, 4).unbind()[1],
    "cat": lambda c, x: torch.cat([c[:2], c[2:]]),
}


@pytest.mark.parametrize("name", DERIVED)
def test_product_with_what_was_computed_from_a_parameter_gives_the_input_all(name):
    """In explanation mode alone: `explain` detaches parameters."""
    derived = DERIVED[name]
    found = found_gradient(lambda m, x: x * derived(m.c, x))
    torch.testing.assert_close(found, C.expand(3, 4), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", DERIVED)
def test_sum_with_what_was_computed_from_a_parameter_has_its_name(name):
    derived = DERIVED[name]
    assert list(explain(Net(lambda m, x: x + derived(m.c, x)), X, target=1).bias_terms) == ["c"]


@pytest.mark.parametrize("name", IN_LISTS)
def test_part_of_a_parameter_has_its_name(name):
    derived = IN_LISTS[name]
    assert list(explain(Net(lambda m, x: x + derived(m.c, x)), X, target=1).bias_terms) == ["c"]


@pytest.mark.parametrize("name", IN_LISTS)
def test_product_with_a_part_of_a_parameter_gives_the_input_all(name):
    derived = IN_LISTS[name]
    torch.testing.assert_close(found_gradient(lambda m, x: x * derived(m.c, x)), C.expand(3, 4))


def test_product_with_a_constant_that_is_broadcast_gives_the_input_all():
    def function(m, x):
        a, b = torch.broadcast_tensors(x, m.c)
        return a * b

    e = explain(Net(function), X, target=1)
    torch.testing.assert_close(e.contributions[:, 1], X[:, 1] * C[1])
    assert not e.bias.any()


def assigned(m, x):
    y = m.c.expand(3, 4) * 1
    y[:, :2] = x[:, :2]
    return y


FROM_A_PARAMETER = {
    "add_": lambda m, x: (m.c.expand(3, 4) * 1).add_(x),
    "copy_": lambda m, x: (m.c.expand(3, 4) * 1).copy_(x),
    "[...] =": assigned,
    "masked_fill_": lambda m, x: (m.c.expand(3, 4) * 1).masked_fill_(MASK, x[0, 0]),
}


@pytest.mark.parametrize("name", FROM_A_PARAMETER)
def test_constant_that_the_input_is_written_into_depends_on_the_input(name):
    """In explanation mode alone: `explain` detaches parameters, and marks nothing."""
    function = FROM_A_PARAMETER[name]
    literal = X.clone().requires_grad_()
    y = function(Net(function), literal)
    (expected,) = torch.autograd.grad((y * y.detach().sigmoid()).sum(), literal)

    def gated(m, x):
        y = function(m, x)
        return y * y.sigmoid()

    torch.testing.assert_close(found_gradient(gated), expected)


@pytest.mark.parametrize("name", FROM_A_PARAMETER)
def test_constant_that_the_input_is_written_into_is_explained_exactly(name):
    function = FROM_A_PARAMETER[name]
    x = X[:1] if name == "masked_fill_" else X
    model = Net(lambda m, x: function(m, x) * 2 if len(x) == 3 else function(m, x.expand(3, 4))[:1])
    e = explain(model, x, target=3)
    torch.testing.assert_close(e.score, model(x)[:, 3].detach())
    assert (e.residual.abs() < 1e-12).all()


@pytest.mark.parametrize("function", [F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout])
def test_dropout_that_is_off_changes_nothing(function):
    e = explain(Net(lambda m, x: function(x[:, :, None, None], 0.5, False)[:, :, 0, 0]), X, target=1)
    torch.testing.assert_close(e.contributions[:, 1], X[:, 1])


@pytest.mark.parametrize("function", [torch.dropout, torch.alpha_dropout, torch.feature_dropout])
def test_dropout_of_torch_that_is_off_changes_nothing(function):
    e = explain(Net(lambda m, x: function(x[:, :, None], 0.5, False)[:, :, 0]), X, target=1)
    torch.testing.assert_close(e.contributions[:, 1], X[:, 1])
