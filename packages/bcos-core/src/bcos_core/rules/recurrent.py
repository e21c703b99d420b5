"""Recurrent networks, step by step: gates are frozen, candidates are ``x`` times a frozen gate."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_core.errors import BcosError
from bcos_core.rules.table import composition

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]


def _step(
    cell: Cell, input: Tensor, hx: Any, w_x: Tensor, w_h: Tensor, b_x: Tensor | None = None, b_h: Tensor | None = None
) -> Any:
    """One step of a cell, as :class:`torch.nn.LSTMCell` and its kin have it."""
    state = cell(F.linear(input, w_x, b_x), _state(hx), w_h, b_h)
    return state if len(state) > 1 else state[0]


def _state(hx: Any) -> State:
    return tuple(hx) if isinstance(hx, tuple | list) else (hx,)


def _network(
    cell: Cell,
    input: Tensor,
    hx: Any,
    params: Any,
    has_biases: Any,
    num_layers: Any,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, ...]:
    """All layers, directions and steps over a padded batch of sequences; called as ``torch.lstm`` is."""
    if not isinstance(has_biases, bool) or isinstance(params, bool):
        raise BcosError("cannot explain a recurrent network over a packed sequence; give it a padded batch")
    if train and dropout > 0:
        raise BcosError(f"cannot explain: a recurrent network drops values (p={dropout:g}); call model.eval() first")
    directions = 2 if bidirectional else 1
    x = input.transpose(0, 1) if batch_first else input  # (steps, N, features)
    # weights of a layer: input, state, two biases if any, and a projection of the state if it is left
    size = len(params) // (num_layers * directions)
    if size != (4 if has_biases else 2):
        raise BcosError("cannot explain a recurrent network with a projection; build it with proj_size=0")
    hx, last = _state(hx), list[State]()
    for layer in range(num_layers):
        sides = []
        for direction in range(directions):
            index = layer * directions + direction
            w_x, w_h, *biases = params[index * size : (index + 1) * size]
            b_x, b_h = biases if biases else (None, None)
            steps = list(F.linear(x, w_x, b_x).unbind(0))
            state = tuple(s[index] for s in hx)
            outputs = []
            for step in reversed(steps) if direction else steps:
                state = cell(step, state, w_h, b_h)
                outputs.append(state[0])
            sides.append(torch.stack(outputs[::-1] if direction else outputs))
            last.append(state)
        x = torch.cat(sides, -1) if directions == 2 else sides[0]
    states = tuple(torch.stack([state[i] for state in last]) for i in range(len(hx)))
    return (x.transpose(0, 1) if batch_first else x), *states


def _lstm_cell(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Long short-term memory, ``c' = f ⊙ c + i ⊙ tanh(g)``, ``h' = o ⊙ tanh(c')``."""
    h, c = state
    i, f, g, o = _projected(x, h, weight, bias).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_cell(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Gated recurrent unit, ``h' = (1 - z) ⊙ tanh(n + r ⊙ m) + z ⊙ h``."""
    (h,) = state
    r, z, n = x.chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, weight, bias).chunk(3, -1)
    z = (z + z_h).sigmoid()
    n = (n + (r + r_h).sigmoid() * n_h).tanh()
    return ((1 - z) * n + z * h,)


def _elman_cell(
    activation: Callable[[Tensor], Tensor], x: Tensor, state: State, weight: Tensor, bias: Tensor | None
) -> State:
    """``h' = activation(W x + U h)``."""
    return (activation(_projected(x, state[0], weight, bias)),)


def _projected(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x + W h + bias``; the bias is added first, so that it is measured under its name."""
    return (x if bias is None else x + bias) + F.linear(h, weight)


_CELLS: dict[str, Cell] = {
    "lstm": _lstm_cell,
    "gru": _gru_cell,
    "rnn_tanh": partial(_elman_cell, torch.tanh),
    "rnn_relu": partial(_elman_cell, F.relu),
}
for _name, _cell in _CELLS.items():
    composition(_name)(partial(_network, _cell))
    composition(f"{_name}_cell")(partial(_step, _cell))
