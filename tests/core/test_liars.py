"""The liars' gallery: networks made so that a wrong map would add up. Each is explained rightly or refused.

A case is a function of `Parts`, (N, 3, 8, 8) to (N, 5). With an honest twin, which computes the same in plain sight,
a map that is given must be the twin's. A case that only holds something constant must say so by name.
"""

import contextvars
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hidden_functions import Held
from torch import nn

from bcos_core import AS_IT_IS, BcosConv2d, BcosError, explain, norms, register_rules
from bcos_core.rules import table

try:
    import numpy as np
except ImportError:  # where the core is tested with torch alone
    np = None

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Converting")


def with_numpy(cases):
    """Names of the cases, those that need numpy skipped without it."""
    needs = pytest.mark.skipif(np is None, reason="needs numpy")
    numpy = ("numpy", "array")
    return [pytest.param(name, marks=[needs] if any(word in name for word in numpy) else []) for name in cases]


class Parts(nn.Module):
    """Layers to build with, and the function that does."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.stem = BcosConv2d(3, 6, 3)
        self.body = nn.Sequential(BcosConv2d(6, 6, 3), norms.LayerNormUncentered2d(6), BcosConv2d(6, 5, 3))
        self.plain = nn.Sequential(nn.Conv2d(6, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False))
        self.head = nn.Linear(5, 5)
        self.relu = nn.ReLU()
        self.register_buffer("memory", torch.zeros(5))
        self.function = function

    def forward(self, x):
        return self.function(self, x)

    def honest(self, x):
        return self.body(self.stem(x)).mean((2, 3))


def in_a_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def without_gradient(function, *args):
    with torch.no_grad():
        return function(*args)


SIX = torch.rand(2, 6, 6, 6).double()
THREE = torch.rand(2, 3, 8, 8).double()


with warnings.catch_warnings(), torch.no_grad():
    warnings.simplefilter("ignore")  # TorchScript is deprecated, and met with all the same
    TRACED = {
        name: torch.jit.trace(Parts(None).double().get_submodule(name), example, check_trace=False)
        for name, example in {"body": SIX, "plain": SIX, "stem": THREE}.items()
    }


class Double(torch.autograd.Function):
    """Linear, and honest."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Reversed(Double):
    """Linear, with the derivative of another function."""

    @staticmethod
    def backward(ctx, gradient):
        return -2 * gradient


class Shuffled(torch.autograd.Function):
    """Linear, with contributions that add up and belong to other pixels."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return (2 * gradient * x).flip(-1) / x


class Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.softplus(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].sigmoid()


class Aside(torch.autograd.Function):
    """A result that depends on the input, marked as one without a derivative."""

    @staticmethod
    def forward(ctx, x):
        y = x.mean((1, 2, 3))[:, None].expand(-1, 5).clone()
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return None


def hooked(m, x, change):
    y = m.stem(x)
    if y.requires_grad:
        y.register_hook(change)
    return m.body(y).mean((2, 3))


def shuffling_hook(m, x):
    y = m.stem(x)
    values = y.detach()
    if y.requires_grad:
        y.register_hook(lambda g: (g * values).flip(-1) / values)
    return m.body(y).mean((2, 3))


def node_hook(m, x):
    y = m.stem(x)
    values = y.detach()
    if y.requires_grad:
        y.grad_fn.register_prehook(lambda g: ((g[0] * values).flip(-1) / values,))
    return m.body(y).mean((2, 3))


def module_hook(m, x):
    handle = m.body[0].register_full_backward_hook(lambda _m, given, _out: tuple(2 * g for g in given))
    try:
        return m.honest(x)
    finally:
        handle.remove()


def in_a_copied_context(m, x):
    context, found = contextvars.copy_context(), []
    thread = threading.Thread(target=lambda: found.append(context.run(m.honest, x)))
    thread.start()
    thread.join()
    return found[0]


def unseen_softplus(m, x):
    with torch._C.DisableTorchFunction():
        y = F.softplus(m.stem(x))
    return m.body(y).mean((2, 3))


def unseen_body(m, x):
    y = m.stem(x)
    with torch._C.DisableTorchFunction():
        return m.body(y).mean((2, 3))


def energy(m, x):
    return torch.autograd.grad(m.honest(x).square().sum(), x, create_graph=True)[0].flatten(1)[:, :5]


def packed(m, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: 2 * t):
        return m.honest(x)


class Veiled(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl


def other_when_explained(m, x):
    return m.honest(x) * (2 if torch.is_grad_enabled() else 1)


def batch_centred(m, x):
    y = m.honest(x)
    return y - y.mean(0)


def leaf_of_its_own(m, x):
    return m.honest(x) + torch.ones(5).double().requires_grad_()


def masked(mask):
    return lambda m, x: m.head(mask(Softplus.apply(m.stem(x)))[:, :5].mean((2, 3)))


MASK = torch.zeros(6, 6, dtype=torch.bool)
MASK[0] = True

CASES = {
    "a traced B-cos network": (lambda m, x: TRACED["body"](m.stem(x)).mean((2, 3)), Parts.honest),
    "a traced stem": (lambda m, x: m.body(TRACED["stem"](x)).mean((2, 3)), Parts.honest),
    "a traced plain network": (
        lambda m, x: TRACED["plain"](m.stem(x)).mean((2, 3)),
        lambda m, x: m.plain(m.stem(x)).mean((2, 3)),
    ),
    "a traced backbone and an eager biased head": (
        lambda m, x: m.head(TRACED["body"](m.stem(x)).mean((2, 3))),
        lambda m, x: m.head(m.honest(x)),
    ),
    "a scripted function": (lambda m, x: SCRIPTED(m.stem(x))[:, :5].mean((2, 3)), None),
    "another thread": (lambda m, x: in_a_thread(m.honest, x), Parts.honest),
    "another thread for a part": (lambda m, x: m.body(in_a_thread(m.stem, x)).mean((2, 3)), Parts.honest),
    "another thread, with this one's context": (in_a_copied_context, Parts.honest),
    "a thread for a linear part": (
        lambda m, x: in_a_thread(lambda y: y.mean((2, 3)), m.body(m.stem(x))),
        Parts.honest,
    ),
    "DataParallel inside": (lambda m, x: nn.DataParallel(m.body)(m.stem(x)).mean((2, 3)), Parts.honest),
    "a function that holds a B-cos layer": (
        lambda m, x: m.body(Held.apply(x, m.stem)).mean((2, 3)),
        Parts.honest,
    ),
    "a function that holds the network": (lambda m, x: Held.apply(x, m.honest), Parts.honest),
    "a function of its own: softplus": (lambda m, x: m.body(Softplus.apply(m.stem(x))).mean((2, 3)), None),
    "a linear function of its own": (
        lambda m, x: m.body(Double.apply(m.stem(x))).mean((2, 3)),
        lambda m, x: m.body(2 * m.stem(x)).mean((2, 3)),
    ),
    "a reversed derivative": (
        lambda m, x: m.body(Reversed.apply(m.stem(x))).mean((2, 3)),
        lambda m, x: m.body(2 * m.stem(x)).mean((2, 3)),
    ),
    "a derivative that adds up elsewhere": (
        lambda m, x: m.body(Shuffled.apply(m.stem(x))).mean((2, 3)),
        lambda m, x: m.body(2 * m.stem(x)).mean((2, 3)),
    ),
    "a hook that doubles": (lambda m, x: hooked(m, x, lambda g: 2 * g), Parts.honest),
    "a hook that changes nothing": (lambda m, x: hooked(m, x, lambda g: g), Parts.honest),
    "a hook that adds up elsewhere": (shuffling_hook, Parts.honest),
    "a hook on a node that adds up elsewhere": (node_hook, Parts.honest),
    "a backward hook of a module": (module_hook, Parts.honest),
    "saved tensors changed": (packed, Parts.honest),
    "torch functions disabled around softplus": (unseen_softplus, None),
    "torch functions disabled around a B-cos network": (unseen_body, Parts.honest),
    "a subclass that hides calls": (
        lambda m, x: m.honest(x.as_subclass(Veiled)).as_subclass(torch.Tensor),
        Parts.honest,
    ),
    "an aten overload": (
        lambda m, x: m.body(torch.ops.aten.softplus(m.stem(x))).mean((2, 3)),
        lambda m, x: m.body(F.softplus(m.stem(x))).mean((2, 3)),
    ),
    "derivatives in the forward pass": (energy, None),
    "derivatives by torch.func": (
        lambda m, x: torch.func.grad(lambda y: m.honest(y).square().sum())(x).flatten(1)[:, :5],
        None,
    ),
    "vmap over samples": (
        lambda m, x: torch.vmap(lambda one: m.body(m.stem(one[None])).mean((2, 3))[0])(x),
        Parts.honest,
    ),
    "softplus under a where": (masked(lambda y: torch.where(MASK, 0.0, y)), None),
    "softplus under masked_fill": (masked(lambda y: y.masked_fill(MASK, 0.0)), None),
    "softplus through a Fourier transform": (
        masked(lambda y: torch.fft.irfft2(torch.fft.rfft2(y), s=y.shape[-2:])),
        None,
    ),
    "softplus times a mask": (masked(lambda y: y * ~MASK), None),
    "softplus cast to bfloat16 and back": (masked(lambda y: y.bfloat16().double()), None),
    "softplus cast to float16 and back": (masked(lambda y: y.half().double()), None),
    "softplus picked by index": (masked(lambda y: y[:, :, torch.arange(6)]), None),
    "noise by rand_like": (lambda m, x: m.honest(x + 0.01 * torch.rand_like(x)), None),
    "noise as a gate": (lambda m, x: m.honest(x) * torch.rand(5).double(), None),
    "noise of numpy": (lambda m, x: m.honest(x) + torch.from_numpy(np.random.default_rng().random(5)), None),
    "noise of numpy as a gate": (lambda m, x: m.honest(x) * torch.from_numpy(np.random.default_rng().random(5)), None),
    "noise of a generator of its own": (
        lambda m, x: (
            m.honest(x) + torch.rand(5, generator=torch.Generator().manual_seed(torch.seed() % 2**31)).double()
        ),
        None,
    ),
    "RReLU in train mode": (lambda m, x: m.body(F.rrelu(m.stem(x), training=True)).mean((2, 3)), None),
    "dropout by hand": (lambda m, x: m.honest(x * torch.bernoulli(torch.full_like(x, 0.9))), None),
    "mul_ under no_grad": (lambda m, x: m.head(without_gradient(lambda y: y.mul_(2), m.honest(x))), None),
    "add_ under no_grad": (lambda m, x: m.head(without_gradient(lambda y: y.add_(1), m.honest(x))), None),
    "assigned under no_grad": (lambda m, x: m.head(assigned(m.honest(x))), None),
    "relu_ under no_grad": (lambda m, x: m.head(without_gradient(torch.relu_, m.honest(x))), None),
    "F.relu in place under no_grad": (
        lambda m, x: m.head(without_gradient(lambda y: F.relu(y, inplace=True), m.honest(x))),
        None,
    ),
    "data changed in place": (lambda m, x: m.head(behind(m.honest(x))), None),
    "memory changed by numpy": (lambda m, x: m.head(by_numpy(m.honest(x))), None),
    "another output when it is explained": (other_when_explained, None),
    "samples that see each other": (batch_centred, None),
    "a leaf of its own": (leaf_of_its_own, lambda m, x: m.honest(x) + torch.ones(5).double()),
}


def assigned(y):
    with torch.no_grad():
        y[:, 0] = 3.0
    return y


def behind(y):
    y.data.mul_(3)
    return y


def by_numpy(y):
    y.detach().numpy()[:, 0] = 0
    return y


def scripted(x):
    return x * x.abs() / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SCRIPTED = torch.jit.script(scripted)


@pytest.mark.parametrize("probe", [None, True], ids=["by default", "probed"])
@pytest.mark.parametrize("name", with_numpy(CASES))
def test_a_liar_is_explained_rightly_or_refused(name, probe):
    lie, honest = CASES[name]
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    try:
        found = explain(Parts(lie).double().eval(), x, target=2, probe=probe)
    except BcosError:
        return
    if name == "another output when it is explained" and probe is None:
        pytest.skip("only a probe runs the network without gradients")
    assert honest is not None, "explained, although no map of it is right"
    expected = explain(Parts(honest).double().eval(), x, target=2)
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)


RIGHT = (
    "a linear function of its own",
    "a thread for a linear part",
    "a hook that changes nothing",
    "a leaf of its own",
)


@pytest.mark.parametrize("name", RIGHT)
def test_what_only_looks_like_a_lie_is_explained(name):
    lie, _ = CASES[name]
    explain(Parts(lie).double().eval(), torch.rand(2, 3, 8, 8).double(), target=2)


def kept(m, x):
    m.cache = m.stem(x).detach().mean((1, 2, 3))[:, None]
    return m.honest(x) + m.cache


def written(m, x):
    with torch.no_grad():
        m.memory.copy_(m.honest(x)[0].detach())
    return m.honest(x) + m.memory


def slice_written(m, x):
    held = torch.zeros(5).double()
    held[1:] = m.honest(x).detach()[0, 1:]
    return m.honest(x) + held


def from_storage(m, x):
    y = m.stem(x).detach().contiguous()
    again = torch.empty(0).double().set_(y.untyped_storage(), 0, y.shape, y.stride())
    return m.honest(x) + again.mean((1, 2, 3))[:, None]


HELD = {
    "a branch under no_grad": lambda m, x: without_gradient(m.honest, x) + m.body(m.stem(x)).amax((2, 3)),
    "a detached branch": lambda m, x: m.honest(x) + m.stem(x).detach().mean((1, 2, 3))[:, None],
    "data": lambda m, x: m.honest(x) + m.stem(x).data.mean((1, 2, 3))[:, None],
    "a number": lambda m, x: m.honest(x) + m.stem(x).mean().item(),
    "a float": lambda m, x: m.honest(x) + float(m.stem(x).detach().mean()),
    "a list": lambda m, x: m.honest(x) + torch.tensor(m.stem(x).mean((2, 3))[0, :5].tolist()).double(),
    "a text": lambda m, x: m.honest(x) + float(f"{m.stem(x).mean().detach():.9f}"),
    "an array": lambda m, x: m.honest(x) + torch.from_numpy(m.stem(x).detach().numpy().mean((1, 2, 3)))[:, None],
    "an array of an array": lambda m, x: (
        m.honest(x) + torch.as_tensor(np.asarray(m.stem(x).detach())).mean((1, 2, 3))[:, None]
    ),
    "memory": from_storage,
    "a buffer that is written": written,
    "a slice that is written": slice_written,
    "an attribute": kept,
    "a straight-through estimator": lambda m, x: m.honest(x) + ((9 * m.honest(x)).round() - m.honest(x)).detach(),
    "another thread under no_grad": lambda m, x: m.honest(x) + in_a_thread(without_gradient, m.honest, x),
    "a traced branch under no_grad": lambda m, x: m.honest(x) + without_gradient(TRACED["stem"], x)[:, :5].mean((2, 3)),
    "a function without a derivative": lambda m, x: m.honest(x) + Aside.apply(x),
    "a threshold": lambda m, x: m.honest(x) + (x.mean((1, 2, 3)) > 0.5)[:, None].double(),
    "a threshold as a number": lambda m, x: m.honest(x) + (1.0 if bool(x[0, 0, 0, 0] > 0.5) else -1.0),
    "the number of the largest": lambda m, x: m.honest(x) + m.stem(x).flatten(1).argmax(1)[:, None],
    "a softmax": lambda m, x: m.honest(x) + m.stem(x).mean((2, 3))[:, :5].softmax(1),
}


UNSEEN = ("another thread under no_grad", "a traced branch under no_grad", "a function without a derivative")


@pytest.mark.parametrize("name", UNSEEN)
def test_a_probe_refuses_what_is_held_out_of_sight(name):
    with pytest.raises(BcosError, match="the map is not the network's"):
        explain(Parts(HELD[name]).double().eval(), torch.rand(2, 3, 8, 8).double(), target=2, probe=True)


@pytest.mark.parametrize("probe", [None, True], ids=["by default", "probed"])
@pytest.mark.parametrize("name", with_numpy(HELD))
def test_what_depends_on_the_image_is_not_called_a_constant(name, probe):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    if probe and name in UNSEEN:
        pytest.skip("a probe refuses it")
    e = explain(Parts(HELD[name]).double().eval(), x, target=2, probe=probe)
    shares = {name: float(term.abs().max()) for name, term in e.bias_terms.items()}
    assert all(name.endswith("(frozen)") for name, share in shares.items() if share > 1e-9), shares
    assert sum(shares.values()) > 1e-9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data", "data (frozen)"),
        ("a detached branch", "detach (frozen)"),
        ("a branch under no_grad", "stem (frozen)"),
        ("a softmax", "softmax (frozen)"),
    ],
)
def test_what_is_held_is_named_after_its_function_or_module(name, expected):
    e = explain(Parts(HELD[name]).double().eval(), torch.rand(2, 3, 8, 8).double(), target=2)
    assert list(e.bias_terms) == [expected]


CONSTANT = {
    "a bias": lambda m, x: m.head(m.honest(x)),
    "a number": lambda m, x: m.honest(x) + 0.37,
    "an array": lambda m, x: m.honest(x) + torch.from_numpy(np.full(5, 0.37)),
    "a tensor of nowhere": lambda m, x: m.honest(x) + SIX[0, 0, 0, :5],
    "a size": lambda m, x: m.honest(x) + x.shape[2] / 10,
    "ones like it": lambda m, x: m.honest(x) + torch.ones_like(m.honest(x)),
    "zeros like it, filled": lambda m, x: m.honest(x) + torch.zeros_like(x)[:, 0, 0, :5].fill_(2.0),
    "a position": lambda m, x: m.honest(x) + torch.arange(5).double() / 5,
}


@pytest.mark.parametrize("name", with_numpy(CONSTANT))
def test_a_constant_is_called_one(name):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    e = explain(Parts(CONSTANT[name]).double().eval(), x, target=2)
    assert [n for n in e.bias_terms if n.endswith("(frozen)")] == []
    assert float(e.bias.abs().max()) > 1e-3


@pytest.fixture
def lgamma_rule():
    before, foreign = dict(table.RULES), set(table.THIRD_PARTY)
    yield lambda rule: register_rules({torch.lgamma: rule})
    table.RULES.clear()
    table.RULES.update(before)
    table.THIRD_PARTY.clear()
    table.THIRD_PARTY.update(foreign)


def gated(m, x):
    return m.body(m.stem(x) * torch.lgamma(m.stem(x) + 3)).mean((2, 3))


def test_a_wrong_rule_of_another_package_is_refused(lgamma_rule):
    lgamma_rule(AS_IT_IS)
    with pytest.raises(BcosError, match=r"the map is not the network's|miss the output"):
        explain(Parts(gated).double().eval(), torch.rand(2, 3, 8, 8).double(), target=2)


def test_a_right_rule_of_another_package_is_used(lgamma_rule):
    lgamma_rule(lambda function, x: x * (function(x.detach()) / x.detach()))

    def activated(m, x):
        return m.body(torch.lgamma(m.stem(x) + 3)).mean((2, 3))

    e = explain(Parts(activated).double().eval(), torch.rand(2, 3, 8, 8).double(), target=2, probe=True)
    assert float(e.probe.max()) < 1e-12


def test_a_layer_that_runs_twice_is_refused():
    model = Parts(lambda m, x: m.body(m.relu(m.relu(m.stem(x)))).mean((2, 3))).double().eval()
    with pytest.raises(BcosError, match=r"the layer 'relu' \(ReLU\) runs 2 times"):
        explain(model, torch.rand(2, 3, 8, 8).double(), layer="relu")


def test_data_parallel_is_explained_as_the_network_that_it_copies():
    model, x = Parts(Parts.honest).double().eval(), torch.rand(2, 3, 8, 8).double()
    torch.testing.assert_close(explain(nn.DataParallel(model), x, 2).weight, explain(model, x, 2).weight)


def test_random_numbers_of_another_thread_do_not_matter():
    def function(m, x):
        in_a_thread(torch.rand, 3)
        return m.honest(x)

    explain(Parts(function).double().eval(), torch.rand(2, 3, 8, 8).double(), target=2)
