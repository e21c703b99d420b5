"""Ways in which a wrong map was certified, or a right one described wrongly."""

import random

import numpy as np
import pytest
import torch
from hidden_functions import Added
from torch import nn
from torch.nn.utils import prune

from bcos_core import BcosConv2d, BcosError, BcosLinear, LogitLayer, explain, folded
from bcos_core.norms import BatchNormUncentered2d
from bcos_core.receipt import receipts


class Gate(torch.autograd.Function):
    """x · sigmoid(x) with its true gradient, which is not a frozen factor's."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * (s + x * s * (1 - s))


class Net(nn.Module):
    """A convolution, what `step` makes of its features (N, 8), and a linear layer."""

    def __init__(self, step, last=lambda z: z):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(6, 8, 3, bias=False), nn.Linear(8, 10, bias=False)
        self.register_buffer("mem", torch.zeros(2, 10))
        self.step, self.last = step, last

    def forward(self, x):
        return self.last(self.fc(self.step(self, self.conv(x).mean((2, 3)))))


@pytest.fixture
def x():
    return torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))


def masked(z):
    mask = torch.zeros(10, dtype=torch.bool)
    mask[5:] = True
    return z.masked_fill(mask, -1e9)


def plus(_, f):
    return Added.apply(f, 1)


@pytest.mark.parametrize("last", [lambda z: z, masked, lambda z: torch.cat([z, 0 * z[:, :1] + 1e8], 1)])
@pytest.mark.parametrize("step", [lambda _, f: Gate.apply(f), plus], ids=["custom gradient", "constant out of sight"])
def test_large_outputs_of_other_classes_excuse_nothing(step, last, x):
    with pytest.raises(BcosError, match=r"miss the output by|the map is not the network's"):
        explain(Net(step, last).eval(), x, 3)


def test_masked_classes_are_no_obstacle(x):
    model, plain = Net(lambda _, f: f, masked).eval(), Net(lambda _, f: f).eval()
    found, expected = explain(model, x, 3), explain(plain, x, 3)
    assert torch.equal(found.map, expected.map)
    torch.testing.assert_close(found.allowed_residual, expected.allowed_residual)
    assert (explain(model, x, lambda z: z[:, 3] - z[:, 4]).allowed_residual < 1e-5).all()


def test_large_number_among_outputs_by_name_excuses_nothing(x):
    model = Net(plus, lambda z: {"logits": z, "steps": torch.full((len(z),), 1e9)}).eval()
    with pytest.raises(BcosError, match="miss the output by"):
        explain(model, x, lambda out: out["logits"][:, 3])


def test_coarse_types_of_side_branches_excuse_nothing(x):
    def step(self, f):
        self.stat = f.bfloat16() * 2  # nothing reads it
        return plus(self, f)

    with pytest.raises(BcosError, match="miss the output by"):
        explain(Net(step).eval(), x, 3)

    def coarse(self, f):
        self.stat = f.half()
        return f.bfloat16().float()

    model = Net(coarse).eval()
    assert explain(model, x, 3).dtypes == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("how", ["multiply", "add"])
@pytest.mark.parametrize("name", ["scatter", "scatter_"])
def test_scatter_that_reduces_is_refused(name, how, x):
    index = torch.zeros(2, 1, dtype=torch.int64)
    model = Net(lambda _, f: getattr(f.clone(), name)(1, index, 2.0, reduce=how)).eval()
    with pytest.raises(BcosError, match="scatter with reduce="):
        explain(model, x, 3)


def keep(self, z):
    with torch.no_grad():
        self.mem.copy_(z)
    return z + self.mem


def keep_items(self, z):
    with torch.no_grad():
        self.mem[:] = z
    return z + self.mem


def keep_data(self, z):
    with torch.no_grad():
        self.mem.data.copy_(z)
    return z + 2 * self.mem


def keep_sum(self, z):
    with torch.no_grad():
        self.mem.add_(z)
    return z + self.mem


def keep_new(_, z):
    with torch.no_grad():
        kept = torch.zeros_like(z)
        kept.copy_(z)
    return z + kept


@pytest.mark.parametrize("last", [keep, keep_items, keep_data, keep_sum, keep_new])
def test_constants_written_over_with_the_image_are_frozen(last, x):
    model = Net(lambda _, f: f)
    model.last = lambda z: last(model, z)
    terms = explain(model.eval(), x, 3).bias_terms
    assert [name.endswith("(frozen)") for name in terms] == [True]


def test_choice_by_brightness_is_frozen(x):
    model = Net(lambda _, f: f)
    pixels = []
    model.conv.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0].mean().item()))
    model.last = lambda z: z + (1.0 if pixels[-1] > 0.25 else -1.0)
    assert list(explain(model.eval(), x, 3).bias_terms) == ["constant (frozen)"]


class Gated(nn.Module):
    """Logits with a bias, times a number for each image, or one for all."""

    def __init__(self, gate):
        super().__init__()
        self.net, self.logits, self.gate = Net(lambda _, f: f), LogitLayer(None, -5.0), gate

    def forward(self, x):
        return self.logits(self.net(x)) * self.gate(x)


def test_gated_logit_bias_counts_in_the_image_share(x):
    plain = explain(Gated(lambda x: 1.0).eval(), x, 3)
    assert list(plain.bias_terms) == ["logit bias"]
    assert (plain.image_share == 1).all()
    gated = explain(Gated(lambda x: x.mean((1, 2, 3), keepdim=True)[:, 0, 0].sigmoid()).eval(), x, 3)
    assert list(gated.bias_terms) == ["logit bias (scaled)"]
    assert (gated.image_share < 0.2).all()


def test_sums_and_differences_of_logits_keep_the_logit_bias(x):
    model = Gated(lambda x: 1.0).eval()
    for target in (lambda z: z[:, 3] - z[:, 4], lambda z: z[:, 3] + z[:, 4]):
        assert list(explain(model, x, target).bias_terms) == ["logit bias"]


@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.rand())])
def test_random_numbers_of_python_and_numpy_are_seen(draw, x):
    model = Net(lambda _, f: f)
    model.last = lambda z: z * (1 + draw())
    with pytest.raises(BcosError, match="draws at random"):
        explain(model.eval(), x, 3)


@pytest.mark.parametrize("probe", [None, True])
def test_further_passes_leave_buffers_as_one_pass_does(probe, x):
    def averaged(self, f):
        with torch.no_grad():
            self.mem.lerp_(f.detach().mean() * torch.ones(2, 10), 0.5)
        return f * (1.0 if f.sum().item() > -1e9 else 2.0)  # a number that leaves PyTorch: the network is run again

    once, explained = Net(averaged).eval(), Net(averaged).eval()
    once(x)
    explain(explained, x, 3, probe=probe)
    torch.testing.assert_close(explained.mem, once.mem)


class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = BcosConv2d(6, 8, 3), BatchNormUncentered2d(8), BatchNormUncentered2d(8)
        nn.init.constant_(self.b.weight, 3.0)

    def forward(self, x):
        y = self.conv(x)
        return (self.a(y) + self.b(y)).mean((2, 3))


class ClampedConv(BcosConv2d):
    def forward(self, x):
        return super().forward(x).clamp(max=0.05)


class ClampedNorm(BatchNormUncentered2d):
    def forward(self, x):
        return super().forward(x).clamp(max=0.05)


def network(kind):
    torch.manual_seed(0)
    conv = ClampedConv(6, 8, 3) if kind == "subclass of the layer" else BcosConv2d(6, 8, 3)
    norm = ClampedNorm(8) if kind == "subclass of the norm" else BatchNormUncentered2d(8)
    nn.init.uniform_(norm.running_var, 0.1, 0.5)
    hooked = {"hook of the layer": conv, "hook of the norm": norm}.get(kind)
    if hooked is not None:
        hooked.register_forward_hook(lambda _m, _i, out: out.clamp(max=0.05))
    return nn.Sequential(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize(
    "kind", ["subclass of the layer", "subclass of the norm", "hook of the layer", "hook of the norm", "two norms"]
)
def test_folded_network_is_the_network_for_other_inputs_too(kind, x):
    model = Fork().eval() if kind == "two norms" else network(kind)
    quick = folded(model, torch.zeros_like(x[:1]) + 0.01)
    for other in (x, 6 * x):
        torch.testing.assert_close(quick(other), model(other))
        torch.testing.assert_close(explain(quick, other, 3).map, explain(model, other, 3).map)


def test_norm_of_tokens_is_not_folded_into_a_linear_layer():
    torch.manual_seed(0)
    model = nn.Sequential(BcosLinear(6, 5), BatchNormUncentered2d(5), nn.Flatten()).eval()
    nn.init.uniform_(model[1].weight)
    tokens = torch.rand(2, 5, 6)
    torch.testing.assert_close(folded(model, torch.zeros(1, 5, 6))(tokens), model(tokens))
    again = folded(folded(model, tokens), tokens)
    torch.testing.assert_close(again(tokens), model(tokens))


def test_network_that_cannot_be_folded_says_so(x):
    model = Net(lambda _, f: f, lambda z: {"logits": z}).eval()
    with pytest.raises(BcosError, match="gives dict"):
        folded(model, x)
    import threading

    model = Net(lambda _, f: f).eval()
    model.lock = threading.Lock()
    with pytest.raises(BcosError, match="cannot be copied"):
        folded(model, x)


def test_network_that_is_a_convolution_has_channels_first():
    torch.manual_seed(0)
    conv, x = nn.Conv1d(6, 10, 3, bias=False), torch.rand(1, 6, 10)
    torch.testing.assert_close(explain(conv, x, 3).score, conv(x).sum(2)[:, 3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unseen_step_is_not_certified_in_a_half_precision(dtype, x):
    model = Net(lambda _, f: f, lambda z: Added.apply(z, 0.01)).eval().to(dtype)
    with pytest.raises(BcosError, match=r"cannot explain in a half precision: .* did not see Added"):
        explain(model, x.to(dtype), 0)
    with pytest.raises(BcosError, match="miss"):
        explain(model.float(), x, 0)


def test_receipt_says_that_rounding_may_hide_a_part_of_the_score(x):
    model = Net(lambda _, f: f).eval()
    assert receipts(explain(model, x, 0), model=model)[0][0].warnings == []
    found = receipts(explain(model.bfloat16(), x.bfloat16(), 0), model=model)[0][0]
    assert found.allowed > 0.05 * abs(found.score)
    assert any("explain in float32 to be sure" in line for line in found.warnings)


def test_input_in_another_precision_than_the_network_is_refused_in_words(x):
    with pytest.raises(
        BcosError, match=r"the input is torch.float64, .* are torch.float32; give it x.to\(torch.float32"
    ):
        explain(Net(lambda _, f: f).eval(), x.double(), 0)


def test_targets_may_be_unsigned(x):
    model = Net(lambda _, f: f).eval()
    expected = explain(model, x, 3).map
    for target in (torch.tensor(3, dtype=torch.uint16), np.uint32(3), torch.full((len(x),), 3, dtype=torch.uint8)):
        assert torch.equal(explain(model, x, target).map, expected)


def test_layers_of_networks_that_keep_tensors_are_explained(x):
    model = Net(lambda _, f: f).eval()
    expected = explain(model, x, 3, layer="conv").map
    prune.custom_from_mask(model.conv, "weight", torch.ones_like(model.conv.weight))
    torch.testing.assert_close(explain(model, x, 3, layer="conv").map, expected)
