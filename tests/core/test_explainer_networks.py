"""Networks as people write them: the logits are those of the network, and every logit is explained exactly."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bcos_core import BcosError, explain, explanation_mode


class Net(nn.Module):
    """Linear layers around a function of (network, features)."""

    def __init__(self, function):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.last = nn.Linear(6, 3)
        self.c = nn.Parameter(torch.randn(6))
        self.function = function

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


def changed(function):
    def apply(m, y):
        y = y.clone()
        function(m, y)
        return y

    return apply


def assign(index, value):
    return changed(lambda m, y: y.__setitem__(index, value(m, y)))


class Pair(tuple):
    """A named tuple's look."""

    _fields = ("a", "b")
    __slots__ = ()

    def __new__(cls, a, b):
        return super().__new__(cls, (a, b))

    @classmethod
    def _make(cls, values):
        return cls(*values)


FUNCTIONS = {
    "halves in place": changed(lambda m, y: y[:, :3].mul_(y[:, 3:])),
    "overlapping halves": changed(lambda m, y: y[:, :4].mul_(y[:, 2:])),
    "half from both": assign((slice(None), slice(3)), lambda m, y: y[:, 3:] * y[:, :3]),
    "addcmul_ with itself": changed(lambda m, y: y.addcmul_(y, y.sigmoid())),
    "squared in place": changed(lambda m, y: y.mul_(y)),
    "mask times x": lambda m, y: (y > 0) * y,
    "x over its sum": lambda m, y: y / y.abs().sum(1, keepdim=True),
    "x minus its mean": lambda m, y: y - y.mean(1, keepdim=True),
    "2 to the x": lambda m, y: y * 2**y,
    "masked softmax": lambda m, y: y * y.masked_fill(y < 0, -torch.inf).softmax(1),
    "integers chosen": lambda m, y: torch.where(y > 0, y, torch.ones(6, dtype=torch.long)),
    "integers beside": lambda m, y: torch.cat([y[:, :4], torch.ones(len(y), 2, dtype=torch.long)], 1),
    "a mask beside": lambda m, y: torch.cat([y[:, :3], y[:, 3:] > 0], 1),
    "true assigned": assign((slice(None), 0), lambda m, y: True),
    "an integer assigned": assign((slice(None), 0), lambda m, y: torch.tensor(2)),
    "a token assigned": assign((slice(None), 0), lambda m, y: m.c[0]),
    "where by name": lambda m, y: torch.where(condition=y > 0, input=y, other=m.c),
    "x.where by name": lambda m, y: y.where(condition=y > 0, other=m.c),
    "addmm by name": lambda m, y: torch.addmm(m.c, mat1=y, mat2=m.last.weight.T @ m.last.weight),
    "baddbmm by name": lambda m, y: m.c.expand(len(y), 1, 6).baddbmm(
        batch1=y[:, None], batch2=m.c.diag()[None].expand(len(y), 6, 6)
    )[:, 0],
    "attention, causal by position": lambda m, y: F.scaled_dot_product_attention(
        *(y.reshape(-1, 1, 3, 2),) * 3, None, 0.0, True
    ).reshape(-1, 6),
    "named tuple": lambda m, y: torch.cat(Pair(y[:, :3], m.c[:3].expand(len(y), 3)), 1),
    "cast to float32 and back": lambda m, y: y.float().gelu().to(y.dtype) if hasattr(y, "gelu") else F.gelu(y),
    "dictionary of parts": lambda m, y: sum({"a": y, "b": y.sigmoid() * y}.values()),
    "routed to the largest": lambda m, y: torch.zeros_like(y).scatter(1, y.topk(2, 1).indices, y.topk(2, 1).values),
    "cached constant": lambda m, y: y + m.c.detach(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_logit_is_explained_exactly(name):
    torch.manual_seed(0)
    model, x = Net(FUNCTIONS[name]).double(), torch.randn(3, 4).double()
    e = explain(model, x, target=[[0, 1, 2]] * 3)
    with torch.no_grad():
        torch.testing.assert_close(e.logits, model(x))
    assert (e.residual.abs() < 1e-10).all()


class SequenceFirst(nn.Module):
    """Tokens in dimension 0, samples in dimension 1, and positions added."""

    def __init__(self, tokens=4):
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.positions = nn.Parameter(torch.randn(tokens, 1, 5))
        self.token = nn.Parameter(torch.randn(1, 1, 5))

    def forward(self, x):
        y = self.layer(x.transpose(0, 1)) + self.positions
        y = torch.cat([self.token.expand(1, y.shape[1], 5), y])
        return y.mean(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_samples_in_another_dimension_get_their_own_bias(dtype, samples):
    torch.manual_seed(0)
    model, x = SequenceFirst().double(), torch.randn(samples, 4, 3).double()
    expected = explain(model, x, target=2)
    found = explain(model.to(dtype), x.to(dtype), target=2)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(found.bias.double(), expected.bias, rtol=0, atol=tolerance)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_are_refused_in_words(reentrant):
    model = Net(lambda m, y: checkpoint(F.gelu, y, use_reentrant=reentrant)).double()
    with pytest.raises(BcosError, match=r"recomputes its activations; turn checkpointing off .*set_grad_checkpointing"):
        explain(model, torch.randn(2, 4).double())


def test_autocast_that_ends_in_float32_is_not_held_to_float32():
    class Casting(Net):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                y = super().forward(x)
            return y.float()

    torch.manual_seed(0)
    e = explain(Casting(lambda m, y: F.gelu(y)), torch.randn(8, 4))
    assert (e.residual.abs() < 0.05).all()


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_network_that_records_no_gradients_is_refused(switch):
    class Deployed(Net):
        def forward(self, x):
            with switch():
                return super().forward(x)

    with pytest.raises(BcosError, match=r"does not depend on the input through anything that is not frozen"):
        explain(Deployed(lambda m, y: y), torch.randn(2, 4))


def test_target_that_is_a_gate_is_refused():
    with pytest.raises(BcosError, match=r"explain a logit, not its softmax or sigmoid"):
        explain(Net(lambda m, y: y), torch.randn(2, 4), target=lambda z: z.softmax(1)[:, 0])


def test_explanation_mode_around_an_explanation_changes_nothing():
    torch.manual_seed(0)
    model, x = Net(FUNCTIONS["masked softmax"]).double(), torch.randn(2, 4).double()
    expected = explain(model, x, target=1)
    with explanation_mode(model):
        found = explain(model, x, target=1)
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)
