"""What is explained is what the network computes: values of rules, paths of a program, types, threads."""

import copy
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from hidden_functions import Held
from torch import nn

from bcos_core import AddInverse, BcosConv2d, BcosError, BcosLinear, explain, folded


class Network(nn.Module):
    """A network of two layers, and what happens between them."""

    def __init__(self, between, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.between, self.lin, self.head = between, nn.Linear(6, 6), nn.Linear(6, 4)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.between(self, x)


@pytest.fixture
def x():
    return torch.randn(2, 6)


def given(model, x):
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_of_half_precisions_has_the_eps_of_pytorch(dtype, x):
    model = Network(lambda s, x: s.head(F.rms_norm(x, (6,)))).to(dtype)
    x = (1e-2 * x).to(dtype)
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(explain(model, x).logits, given(model, x), rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's own
def test_rms_norm_under_autocast_is_that_of_the_network(x):
    model = Network(lambda s, x: s.head(s.norm(s.lin(x))), norm=nn.RMSNorm(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(explain(model, 0.1 * x).logits, given(model, 0.1 * x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.bfloat16, torch.float16])
def test_steps_that_were_not_seen_are_refused_in_every_coarse_type(kind, x):
    layer = BcosLinear(6, 6, b=1.25)
    model = Network(lambda s, x: s.head(Held.apply(x, s.layer)).to(kind).float(), layer=layer)
    with pytest.raises(BcosError, match=r"cannot explain in a half precision|the map is not the network's"):
        explain(model, x)


@pytest.mark.parametrize(
    "between",
    [
        lambda s, x: s.head(torch.func.grad(lambda y: s.lin(y).tanh().sum())(x) + x),
        lambda s, x: s.head(torch.func.vjp(lambda y: s.lin(y).tanh(), x)[1](torch.ones_like(x))[0] + x),
        lambda s, x: s.head(torch.func.vmap(torch.func.grad(lambda y: s.lin(y).tanh().sum()))(x) + x),
        lambda s, x: s.head(torch.func.jvp(lambda y: s.lin(y).tanh(), (x,), (torch.ones_like(x),))[1] + x),
        lambda s, x: s.head(torch.func.linearize(lambda y: s.lin(y).tanh(), x)[1](torch.ones_like(x)) + x),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
def test_derivatives_by_torch_func_are_refused(between, x):
    with pytest.raises(BcosError, match=r"takes derivatives in its forward pass|no rule for _make_dual"):
        explain(Network(between), x)


def test_an_ensemble_under_vmap_is_refused_in_words(x):
    members = [nn.Linear(6, 4) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(members)

    def one(parameters, buffers, x):
        return torch.func.functional_call(members[0], (parameters, buffers), (x,))

    model = Network(lambda s, x: torch.func.vmap(one, (0, 0, None))(parameters, buffers, x).mean(0))
    with pytest.raises(BcosError, match=r"adds a constant inside of torch\.func\.vmap|miss the output"):
        explain(model, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits_are_reached_exactly(dtype):
    class Level(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(8, 4), nn.Linear(2, 4)

        def forward(self, x):
            return self.head(x) + self.table(x[:, 0].clamp(0, 7).long())

    model = Level().to(dtype)
    x = torch.stack([torch.arange(8.0, 300.0), torch.ones(292)], 1).to(dtype)
    torch.testing.assert_close(explain(model, x, 0).logits, given(model, x))


@pytest.mark.parametrize("function", [F.relu6, F.hardtanh, F.gelu, F.silu, torch.tanh, lambda h: h.clamp(-0.5, 0.3)])
def test_activations_have_the_values_of_pytorch_to_the_last_bit(function):
    seen = {}

    def between(s, x):
        h = function(x)
        seen[torch.is_grad_enabled()] = h.detach()
        return s.head(h)

    x = 10 * torch.randn(50, 6)
    model = Network(between)
    given(model, x)
    explain(model, x, 0)
    assert torch.equal(seen[True], function(x))


@pytest.mark.parametrize("bound", [lambda h: h.clamp(-5, 5), torch.tanh, F.hardtanh, F.elu, torch.atan])
def test_infinite_values_of_masks_have_the_values_of_pytorch(bound, x):
    mask = torch.tensor([True, False, False, True, False, False])

    def between(s, x):
        h = s.lin(x)
        masked = bound(h.masked_fill(mask, -torch.inf))
        return s.head(s.table[masked.argmax(1)] + masked + h)

    model = Network(between, table=nn.Parameter(torch.randn(6, 6)))
    e = explain(model, x, 0, probe=True)
    torch.testing.assert_close(e.logits, given(model, x))
    assert torch.isfinite(e.weight).all()


def test_results_that_are_written_to_out_are_refused(x):
    def between(s, x):
        h = s.lin(x)
        with torch.no_grad():
            F.normalize(h, dim=1, out=h)
        return s.head(h)

    with pytest.raises(BcosError, match="writes the result of normalize to out="):
        explain(Network(between), x)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_paths_that_are_taken_without_gradients_are_refused():
    padded = torch.zeros(2, 3, dtype=torch.bool)
    padded[1, 2] = True
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 2)
    model = Network(lambda s, x: s.head(s.encoder(x, src_key_padding_mask=padded).mean(1)), encoder=encoder).eval()
    with pytest.raises(BcosError, match=r"gives other outputs when it is explained.*set_fastpath_enabled"):
        explain(model, torch.randn(2, 3, 6))


def test_a_generator_of_its_own_is_noticed(x):
    generator = random.Random(0)
    with pytest.raises(BcosError, match=r"gives other outputs when it is explained.*draws at random"):
        explain(Network(lambda s, x: s.head(s.lin(x) * generator.random())), x)


def test_outputs_are_compared_the_first_time_and_again_after_a_refusal(x):
    runs = []
    model = Network(lambda s, x: runs.append(torch.is_grad_enabled()) or s.head(s.lin(x)))
    for _ in range(3):
        explain(model, x)
    assert runs == [False, True, True, True]
    other = Network(lambda s, x: s.head(s.lin(x)) + float(not torch.is_grad_enabled()))
    for _ in range(2):
        with pytest.raises(BcosError, match="gives other outputs"):
            explain(other, x)


def counting(s, x):
    s.n.add_(1)
    h = s.lin(x) * s.n
    q = h * h.sigmoid() * h
    h.add_(1.0)
    return s.head(q + h)


def test_a_network_that_would_have_to_run_twice_is_refused_where_it_counts(x):
    model = Network(counting, n=nn.Buffer(torch.zeros(()))).eval()
    with pytest.raises(BcosError, match="changes its buffers, and in place what autograd has saved"):
        explain(model, x)


def test_threads_explain_networks_that_change_what_is_saved(x):
    def between(s, x):
        h = s.lin(x)
        y = h * h.sigmoid()
        p = y * h
        h.add_(1.0)
        return s.head(p + h)

    model = Network(between).eval()
    expected, found = explain(model, x, 0), []

    def work():
        for _ in range(5):
            found.append(explain(model, x, 0) == expected)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 15


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.dark, self.bright = BcosConv2d(6, 8, 3), BcosConv2d(8, 4, 3), BcosConv2d(8, 4, 3)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        h = self.first(x)
        return self.pool(self.dark(h) if x[:, :3].mean() < 0.9 else self.bright(h))


def test_a_network_that_branches_is_not_folded():
    with pytest.raises(BcosError, match="reads values of its input, and may take another path"):
        folded(Branching().eval(), AddInverse()(torch.rand(2, 3, 8, 8)))


@pytest.mark.parametrize(
    "count", [lambda h: torch.nonzero(h > 0.1).shape[0], lambda h: h[h > 0].numel(), lambda h: len(h[h > 0])]
)
def test_numbers_of_elements_that_depend_on_values_are_frozen(count, x):
    e = explain(Network(lambda s, x: (lambda h: s.head(h + count(h)))(s.lin(x))), x, 0)
    assert "constant" not in e.bias_terms
    assert "constant (frozen)" in e.bias_terms


@pytest.mark.parametrize(
    "write",
    [
        lambda b, h: b[:, :3].add_(h[:, :3]),
        lambda b, h: b.narrow(1, 0, 3).copy_(h[:, :3]),
        lambda b, h: b[:, :3].mul_(h[:, :3]),
        lambda b, h: b[0].copy_(h[0]),
    ],
)
def test_what_stays_of_a_constant_beside_what_is_written_into_it_is_measured(write, x):
    def between(s, x):
        b = torch.ones(2, 6)
        write(b, s.lin(x))
        return s.head(b)

    model = Network(between)
    e = explain(model, x, 0, probe=True)
    torch.testing.assert_close(e.logits, given(model, x))


def test_a_row_of_one_is_assigned_as_pytorch_does(x):
    def between(s, x):
        h = s.lin(x).clone()
        h[0] = torch.ones(1, 6)
        return s.head(h)

    model = Network(between)
    torch.testing.assert_close(explain(model, x, 0).logits, given(model, x))


def test_parameters_of_inference_mode_and_complex_outputs_are_refused_in_words(x):
    with torch.inference_mode():
        model = nn.Linear(6, 4)
    with pytest.raises(BcosError, match=r"made under torch\.inference_mode"):
        explain(model, x)
    with pytest.raises(BcosError, match="outputs are complex"):
        explain(Network(lambda s, x: torch.fft.fft(s.head(x))), x, 0)


@pytest.mark.parametrize("form", [lambda x: x.to_sparse(), lambda x: x.to("meta")])
def test_inputs_without_ordinary_values_are_refused(form, x):
    with pytest.raises(BcosError, match="needs an ordinary tensor of numbers"):
        explain(nn.Linear(6, 4), form(x))


class Observer(nn.Module):
    """Fake quantisation that learns the range of what it sees."""

    def __init__(self):
        super().__init__()
        for name, value in {"scale": torch.ones(1), "point": torch.zeros(1, dtype=torch.int32)}.items():
            self.register_buffer(name, value)
        self.low, self.high = nn.Buffer(torch.tensor(0.0)), nn.Buffer(torch.tensor(0.0))
        self.on = nn.Buffer(torch.ones(1, dtype=torch.int64))

    def forward(self, x):
        fused = torch.fused_moving_avg_obs_fake_quant
        return fused(x, self.on, self.on, self.low, self.high, self.scale, self.point, 1.0, 0, 255, -1)


def test_observers_learn_nothing_from_a_trial(x):
    model = nn.Sequential(nn.Linear(6, 6), Observer(), nn.Linear(6, 4)).eval()
    for _ in range(2):
        given(model, x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BcosError, match="no rule for"):
        explain(model, x)
    torch.testing.assert_close(model.state_dict(), before)
