import pytest
import torch
from torch import nn

from bcos_core import BcosConv2d, BcosError, BcosLinear, explain

X = torch.rand(2, 4).double()


def linear():
    return nn.Sequential(BcosLinear(4, 3)).double()


class Output(nn.Module):
    """Gives what `function` makes of the output of a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.inner = BcosLinear(4, 3).double()
        self.unused = nn.Linear(4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x))


def with_value(value):
    x = X.clone()
    x[0, :2] = value
    return x


CASES = [
    (
        lambda: explain(linear(), [1.0]),
        "explain needs a floating point tensor, got list; convert images to floats",
    ),
    (
        lambda: explain(linear(), X.byte()),
        "explain needs a floating point tensor, got torch.uint8; convert images",
    ),
    (lambda: explain(linear(), X.cfloat()), "explain needs a floating point tensor, got torch.complex64"),
    (lambda: explain(linear(), X[0]), r"at least one element, got shape \(4,\); use x\[None\] for one image"),
    (lambda: explain(linear(), X[:0]), r"at least one element, got shape \(0, 4\)"),
    (
        lambda: explain(linear(), with_value(float("nan"))),
        "the input holds 2 non-finite values .* remove them first",
    ),
    (lambda: explain(linear(), with_value(float("inf"))), "the input holds 2 non-finite values"),
    (lambda: explain(lambda x: x, X), "explain needs a torch.nn.Module, got function"),
    (lambda: explain(linear(), X, 3), r"target must be in \[0, 3\) for 3 outputs, got values from 3 to 3"),
    (lambda: explain(linear(), X, [-1, 2]), r"target must be in \[0, 3\) .* got values from -1 to 2"),
    (lambda: explain(linear(), X, 1.0), "target must hold integer class indices, got torch.float32"),
    (lambda: explain(linear(), X, True), "target must hold integer class indices, got torch.bool"),
    (
        lambda: explain(linear(), X, [0, 1, 2]),
        r"integer, \(2,\) or \(2, T\) integers for 2 inputs, got shape \(3,\)",
    ),
    (lambda: explain(linear(), X, [[[0]], [[1]]]), r"for 2 inputs, got shape \(2, 1, 1\)"),
    (lambda: explain(linear(), X, torch.zeros(2, 0).long()), r"for 2 inputs, got shape \(2, 0\)"),
    (
        lambda: explain(linear(), X, lambda z: 1.0),
        r"a callable target must return \(2,\) or \(2, T\) values, got float",
    ),
    (lambda: explain(linear(), X, lambda z: z.sum()), r"must return \(2,\) or \(2, T\) values, got \(\)"),
    (lambda: explain(linear(), X, lambda z: z[:1]), r"must return \(2,\) or \(2, T\) values, got \(1, 3\)"),
    (
        lambda: explain(linear(), X, lambda z: z[:, :0]),
        r"must return \(2,\) or \(2, T\) values, got \(2, 0\)",
    ),
    (
        lambda: explain(linear(), X, lambda z: z[:, 0], relative=True),
        "relative=True needs class indices as target",
    ),
    (lambda: explain(linear(), X, layer="1"), "the model has no layer '1'; choose from 0"),
    (lambda: explain(linear(), X, layer=nn.ReLU()), r"the given layer \(ReLU\) is not part of the model"),
    (
        lambda: explain(Output(lambda z: z), X, layer="unused"),
        "the layer Linear did not run in the model's forward",
    ),
    (
        lambda: explain(Output(lambda z: (z, z)), X),
        r"outputs of shape \(2, K, ...\), the model or layer gives tuple",
    ),
    (lambda: explain(Output(lambda z: {"z": z}), X), "the model or layer gives dict"),
    (lambda: explain(Output(lambda z: z.sum(1)), X), r"the model or layer gives \(2,\)"),
    (lambda: explain(Output(lambda z: z[:1]), X), r"the model or layer gives \(1, 3\)"),
    (lambda: explain(Output(lambda z: z / 0), X), "the model's outputs are not finite; check its weights"),
    (
        lambda: explain(nn.Sequential(linear(), nn.BatchNorm1d(3)), X),
        "cannot explain: module '1' .BatchNorm1d. norm",
    ),
    (
        lambda: explain(nn.Sequential(nn.Dropout()), X),
        "cannot explain: module '0' .Dropout. drops activations",
    ),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[m for _, m in CASES])
def test_mistakes_are_answered_in_words(call, message):
    with pytest.raises(BcosError, match=message):
        call()


class Secret(torch.autograd.Function):
    """x³, a product that no rule can see."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def test_operation_that_no_rule_sees_is_refused():
    message = (
        r"the contributions and the bias miss the output by \d\.\de[+-]\d\d of their size "
        r"\(allowed: 1\.0e-12\): "
        "the model has an operation whose dynamic factor is not frozen, "
        "or that adds a constant in a way that is not measured; "
        r"wrap the factor in bcos_core.freeze, add constants with \+, or use layers of bcos_core"
    )
    with pytest.raises(BcosError, match=message):
        explain(Output(Secret.apply), 5 * X)


def test_operation_that_no_rule_sees_is_refused_in_float32_too():
    model = Output(Secret.apply).float()
    with pytest.raises(BcosError, match=r"miss the output by .* \(allowed: 1\.0e-06\)"):
        explain(model, X.float())


def test_errors_leave_no_trace_on_the_model():
    model = nn.Sequential(BcosConv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(BcosError):
        explain(model, torch.rand(1, 5, 4, 4), layer="0")
    assert not model[0]._forward_hooks


def test_functional_dropout_is_refused_while_training():
    class Dropping(torch.nn.Linear):
        def forward(self, x):
            return super().forward(torch.nn.functional.dropout(x, 0.5, self.training))

    model = Dropping(4, 3).double()
    with pytest.raises(BcosError, match=r"the model drops activations at random \(p=0.5\); call model.eval\(\) first"):
        explain(model, X[:, :4])
    explain(model.eval(), X[:, :4])
