"""LSTM, GRU and RNN in explanation mode: the same values, gates frozen, and nothing left unexplained."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from bcos_core import BcosError, explain, explanation_mode

KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn tanh": nn.RNN,
    "rnn relu": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
}
OPTIONS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "both": {"num_layers": 2, "bidirectional": True},
    "without bias": {"bias": False, "num_layers": 2},
}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Outputs(nn.Module):
    """All outputs and last states of a recurrent network for (N, steps, 3), side by side."""

    def __init__(self, network, initial=False):
        super().__init__()
        self.network = network
        directions = network.num_layers * (2 if network.bidirectional else 1)
        size = (directions, 1, network.hidden_size)
        self.initial = nn.ParameterList([nn.Parameter(randn(*size, seed=i + 1)) for i in range(2)] if initial else [])

    def forward(self, x):
        n = len(x)
        states = [s.expand(-1, n, -1).contiguous() for s in self.initial]
        given = () if not states else (tuple(states),) if isinstance(self.network, nn.LSTM) else (states[0],)
        y, last = self.network(x if self.network.batch_first else x.transpose(0, 1), *given)
        y = y if self.network.batch_first else y.transpose(0, 1)
        last = last if isinstance(last, tuple) else (last,)
        return torch.cat([y.flatten(1), *(s.transpose(0, 1).flatten(1) for s in last)], 1)


def unit(f, x):
    """``x · f(x)/x`` with a constant ratio."""
    return x * torch.where(x == 0, 0, f(x) / x).detach()


def lstm_step(x, state, w_x, w_h, b):
    h, c = state
    i, f, g, o = (x @ w_x.T + h @ w_h.T + b[0] + b[1]).chunk(4, 1)
    i, f, o = (1 / (1 + torch.exp(-gate.detach())) for gate in (i, f, o))
    c = f * c + i * unit(torch.tanh, g)
    return o * unit(torch.tanh, c), c


def gru_step(x, state, w_x, w_h, b):
    (h,) = state
    (r, z, n), (r_h, z_h, n_h) = (x @ w_x.T + b[0]).chunk(3, 1), (h @ w_h.T + b[1]).chunk(3, 1)
    r, z = (1 / (1 + torch.exp(-gate.detach())) for gate in (r + r_h, z + z_h))
    return ((1 - z) * unit(torch.tanh, n + r * n_h) + z * h,)


def tanh_step(x, state, w_x, w_h, b):
    return (unit(torch.tanh, x @ w_x.T + state[0] @ w_h.T + b[0] + b[1]),)


def relu_step(x, state, w_x, w_h, b):
    return (unit(torch.relu, x @ w_x.T + state[0] @ w_h.T + b[0] + b[1]),)


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn tanh": tanh_step, "rnn relu": relu_step}


def literal(step, model, x):
    """What `model` gives, one step after the other."""
    network, last = model.network, []
    steps = list(x.unbind(1))
    states = 2 if step is lstm_step else 1
    for layer in range(network.num_layers):
        sides = []
        for side in ["", "_reverse"] if network.bidirectional else [""]:
            w_x, w_h = (getattr(network, f"weight_{of}_l{layer}{side}") for of in ("ih", "hh"))
            names = [f"bias_{of}_l{layer}{side}" for of in ("ih", "hh")]
            b = [getattr(network, name) if network.bias else torch.zeros(len(w_x)).double() for name in names]
            zero = torch.zeros(len(x), network.hidden_size).double()
            state = tuple(model.initial[i][len(last)].expand_as(zero) if model.initial else zero for i in range(states))
            outputs = []
            for v in steps[::-1] if side else steps:
                state = step(v, state, w_x, w_h, b)
                outputs.append(state[0])
            sides.append(outputs[::-1] if side else outputs)
            last.append(state)
        steps = [torch.cat(at, 1) for at in zip(*sides, strict=True)]
    finals = [torch.stack([state[i] for state in last], 1).flatten(1) for i in range(states)]
    return torch.cat([torch.stack(steps, 1).flatten(1), *finals], 1)


@pytest.mark.parametrize("initial", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_network_freezes_its_gates(kind, options, initial, randomized, gradient):
    network = KINDS[kind](3, 2, batch_first=True, **OPTIONS[options]).double()
    model = randomized(Outputs(network, initial))
    x = randn(2, 4, 3)
    plain = model(x)
    torch.testing.assert_close(plain, literal(STEPS[kind], model, x))
    leaf = x.clone().requires_grad_()
    with explanation_mode(model):
        torch.testing.assert_close(model(leaf), plain)
    expected = gradient(lambda v: literal(STEPS[kind], model, v), x)
    assert expected.any()
    torch.testing.assert_close(gradient(model, x, explaining=True), expected)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_network_is_explained_completely(kind, options, batch_first, randomized):
    network = KINDS[kind](3, 2, batch_first=batch_first, **OPTIONS[options]).double()
    model = randomized(Outputs(network))
    x = randn(2, 4, 3)
    e = explain(model, x, target=[[0, 3, -1 % model(x).shape[1]]] * 2)
    torch.testing.assert_close(e.score, model(x).gather(1, e.target).detach())
    assert (e.residual.abs() < 1e-12).all()
    assert network.bias or not e.bias.any()
    leaf = x.clone().requires_grad_()
    (weight,) = torch.autograd.grad(literal(STEPS[kind], model, leaf)[:, 3].sum(), leaf)
    torch.testing.assert_close(e.weight[:, 1], weight)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_state_is_part_of_the_bias(kind, randomized):
    """Without other constants, it is all of it."""
    model = randomized(Outputs(KINDS[kind](3, 2, batch_first=True, bias=False).double(), initial=True))
    x = randn(2, 4, 3)
    e = explain(model, x, target=1)
    states = list(model.initial)[: 2 if kind == "lstm" else 1]
    shares = []
    for score in literal(STEPS[kind], model, x)[:, 1]:
        gradients = torch.autograd.grad(score, states, retain_graph=True)
        shares.append(sum((g * s).sum().detach() for g, s in zip(gradients, states, strict=True)))
    torch.testing.assert_close(e.bias, torch.stack(shares))


@pytest.mark.parametrize("kind", KINDS)
def test_state_that_depends_on_the_input_is_explained_as_input(kind, randomized):
    network = randomized(KINDS[kind](3, 3, batch_first=True, bias=False).double())

    class FromInput(nn.Module):
        def forward(self, x):
            state = x[:, 0][None].contiguous()
            return network(x, (state, state) if kind == "lstm" else state)[0].flatten(1)

    x = randn(2, 4, 3)
    e = explain(FromInput(), x, target=11)
    torch.testing.assert_close(e.score, FromInput()(x)[:, 11].detach())
    assert (e.residual.abs() < 1e-12).all()
    assert e.bias_terms == {}


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch_is_explained(kind, randomized):
    network = randomized(KINDS[kind](3, 2).double())

    class Single(nn.Module):
        def forward(self, x):
            return network(x[0])[0].reshape(1, -1)

    x = randn(1, 4, 3)
    e = explain(Single(), x, target=6)
    torch.testing.assert_close(e.score, Single()(x)[:, 6].detach())
    assert (e.residual.abs() < 1e-12).all()


class Packed(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        _, last = self.network(pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True))
        return last[0]  # of an LSTM the state, of others its only layer


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequence_is_refused(kind):
    with pytest.raises(BcosError, match="packed sequence"):
        explain(Packed(KINDS[kind](3, 2, batch_first=True).double()), randn(2, 4, 3), target=0)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers_is_refused_in_train_mode_alone(kind):
    model = Outputs(KINDS[kind](3, 2, batch_first=True, num_layers=2, dropout=0.3).double())
    x = randn(2, 4, 3)
    with pytest.raises(BcosError, match=r"p=0\.3.*eval"):
        explain(model.train(), x, target=0)
    e = explain(model.eval(), x, target=0)
    torch.testing.assert_close(e.score, model(x)[:, 0].detach())


@pytest.mark.parametrize("bias", [True, False])
def test_projected_state_is_refused(bias):
    model = Outputs(nn.LSTM(3, 4, proj_size=2, bias=bias, batch_first=True).double())
    with pytest.raises(BcosError, match="proj_size=0"):
        explain(model, randn(2, 4, 3), target=0)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cell_is_explained_exactly(cell, bias, randomized):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell(3, 2, bias=bias).double()

        def forward(self, x):
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state[0] if isinstance(state, tuple) else state

    model, x = randomized(Steps()), randn(2, 4, 3)
    e = explain(model, x, target=0)
    torch.testing.assert_close(e.logits, model(x))
    assert (e.residual.abs() < 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_biases_of_a_recurrent_network_are_measured_under_their_names(kind, randomized):
    model = randomized(Outputs(KINDS[kind](3, 2, batch_first=True).double()))
    e = explain(model, randn(2, 4, 3), target=[[0, 1, 2, 3]] * 2)
    names = {name for name, share in e.bias_terms.items() if share.any()}
    gate = {"sigmoid (frozen)"} if kind == "gru" else set()  # r ⊙ b, of two constants, while the state is 0
    assert names <= {"network.bias_ih_l0", "network.bias_hh_l0", *gate}
