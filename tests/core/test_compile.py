import pytest
import torch
from torch import nn

from bcos_core import (
    AddInverse,
    BcosConv2d,
    BcosLinear,
    BcosSelfAttention,
    LogitLayer,
    explanation_mode,
    norms,
)

pytestmark = pytest.mark.slow


class Net(nn.Module):
    """Convolutions of every kind, norms and attention."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            AddInverse(),
            BcosConv2d(6, 8, 3, padding=1),
            norms.BatchNormUncentered2d(8),
            BcosConv2d(8, 8, 2, padding="same", groups=2, max_out=2),
            norms.GroupNormUncentered2d(2, 8),
            BcosConv2d(8, 8, 3, padding=2, dilation=2, b=1.5),
            norms.PositionNorm2d(8),
            norms.BatchNorm2d(8),
        )
        self.norm = norms.LayerNormUncentered(8)
        self.attention = BcosSelfAttention(8, 2)
        self.head = nn.Sequential(BcosLinear(8, 5), LogitLayer(2.0, -1.0))

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm(tokens))
        return self.head(tokens.mean(1))


@pytest.fixture
def x():
    return torch.rand(2, 3, 4, 4)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("train", [True, False])
def test_compiled_in_one_graph_equals_eager(train, x, randomized):
    net = randomized(Net())
    expected_gradient = torch.autograd.grad(net.train(train)(x).sum(), net.stem[1].weight)[0]
    expected = net(x)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    gradient = torch.autograd.grad(compiled(x).sum(), net.stem[1].weight)[0]
    torch.testing.assert_close(gradient, expected_gradient)


def test_compiled_network_is_not_stuck_outside_explanation_mode(x, randomized):
    """A graph traced before must not be used where factors have to be frozen, nor the other way round."""
    net = randomized(Net())
    compiled = torch.compile(net, backend="eager")

    def gradient(function):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(function(leaf)[:, 0].sum(), leaf)[0]

    ordinary = gradient(net)
    torch.testing.assert_close(gradient(compiled), ordinary)
    with explanation_mode(net):
        torch.testing.assert_close(gradient(compiled), gradient(net))
    torch.testing.assert_close(gradient(compiled), ordinary)


def test_exported_network_equals_eager(x, randomized):
    net = randomized(Net())
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x), net(x))
    more = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(program.module()(more), net(more))
