"""Checks of a map that do not rely on autograd: the network is run again, for the same input and for others."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bcos_core.additive_terms import FROZEN, UNNAMED
from bcos_core.buffers import kept_buffers
from bcos_core.completeness import largest_difference, rounding, size_apart
from bcos_core.errors import BcosError, first_line
from bcos_core.explanation import Explanation
from bcos_core.forward import Pass, Task, forward, outputs_of, values_of
from bcos_core.tape import Tape
from bcos_core.text import listed

PROBE = 10.0
"""How much more rounding there may be at another point, where the held factors do not fit the values."""
_VALUES = 1000.0
"""How much more rounding there may be between two ways to compute the outputs, which networks amplify."""
_MOST = 0.5
"""Share of the outputs that may be rounding in half precisions."""


def check_again(task: Task, x: Tensor, first: Pass) -> None:
    """Run the network again, for the same input and for others, where explanation mode could not follow every value.

    Outputs that differ for the same input are refused. Constants that change with the input are renamed: they depend
    on it, and are only held constant.
    """
    with kept_buffers(task.model):
        _compare(task, x, first)


def _compare(task: Task, x: Tensor, first: Pass) -> None:
    again = forward(task, x)
    runs = [(first.scores, again.scores), *zip(first.outputs, again.outputs, strict=False)]
    size = max(size_apart(a.detach(), b.detach()) for a, b in runs if a.shape == b.shape)
    if not float((again.scores - first.scores).detach().abs().max()) <= rounding(first.dtypes) * size:
        raise BcosError(
            "cannot explain: two forward passes of the model for the same input differ, so it draws at random or "
            "changes between calls; turn its noise off first (dropout, RReLU, added noise), or fix what it draws"
        )
    terms = first.terms
    for other in (elsewhere(x, 1e-3), elsewhere(x, 1.0), 0.3 * x):  # noise does not change the brightness
        try:
            there = forward(task, other).terms
        except Exception:  # a model may raise anything for an input that is not an image
            there = None
        if there is None or len(there.names) != len(terms.names):
            terms.names = [_frozen_name(name) if name == UNNAMED else name for name in terms.names]
            return
        pairs = zip(terms.names, terms.leaves, there.leaves, strict=True)
        terms.names = [name if torch.equal(a, b) else _frozen_name(name) for name, a, b in pairs]


def _frozen_name(name: str) -> str:
    return name if name.endswith(FROZEN) else f"{name}{FROZEN}"


def elsewhere(x: Tensor, distance: float) -> Tensor:
    """Input near `x`, `distance` times the mean size of its values away; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    size = x.detach().abs().double().flatten(1).mean(1).clamp_min(1e-3)
    return x.detach() + (distance * noise * size.reshape(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def probe_map(task: Task, first: Pass, explanation: Explanation) -> Tensor:
    """Share by which the frozen network misses the map at another point, (N,) or (N, T)."""
    with kept_buffers(task.model):
        return _missed(task, first, explanation)


def _missed(task: Task, first: Pass, explanation: Explanation) -> Tensor:
    check_outputs(task, plain_outputs(task, first.leaf), first)
    # With its dynamic factors held the network is affine. If the map is right, it predicts the score of any other
    # input; if a step was missed, its factor is not on the tape, changes with the input, and the prediction fails.
    tape = Tape()
    forward(task, first.leaf, tape)
    tape.rewind()
    x = elsewhere(first.leaf, 1.0)
    score = forward(task, x, tape).scores.reshape(explanation.score.shape)
    # The map and the bias are those of x, only the input is new: their sum must be the frozen network's score there.
    # Its factors fit the values of x, so the score of x counts in the size of what is rounded too.
    assert explanation.largest is not None
    size = explanation.largest.double() + explanation.score.double().abs()
    return replace(explanation, input=x, score=score, largest=size).balance.missing


def plain_outputs(task: Task, x: Tensor) -> Any:
    """What the model gives where nothing is explained and no gradient recorded, or raises; its buffers stay."""
    with kept_buffers(task.model), torch.no_grad():
        try:
            return outputs_of(task, x.detach().clone())
        except Exception as reason:  # told where the model can be explained: else the reason for that is told
            return reason


def check_outputs(task: Task, outputs: Any, first: Pass) -> None:
    """Refuse a network that gives other outputs when it is explained; `outputs` are :func:`plain_outputs`."""
    if isinstance(outputs, Exception):
        raise BcosError(
            f"the model fails where no gradients are recorded, so that its outputs cannot be compared: "
            f"{type(outputs).__name__}: {first_line(outputs)}"
        ) from outputs
    with torch.no_grad():
        scores = task.target(outputs).reshape(first.scores.shape) if callable(task.target) else first.scores
        plain = values_of(outputs, scores)
    allowed = min(_VALUES * rounding(first.dtypes), _MOST)
    for a, b in zip(plain, first.outputs, strict=False):
        difference = largest_difference(a, b.detach()) if a.shape == b.shape else math.inf
        if difference <= allowed:
            continue
        raise BcosError(
            f"the model gives other outputs when it is explained: they differ by {difference:.1e} of their size "
            f"(allowed: {allowed:.1e}); it draws at random or counts, takes another path where no gradients are "
            "recorded (as nn.TransformerEncoder does: torch.backends.mha.set_fastpath_enabled(False)), or amplifies "
            "rounding (try float64)"
        )


def refusal(unseen: list[str], missing: float) -> str:
    """Message about a map that misses the network; `unseen` are the steps that explanation mode did not see."""
    what = f"steps that explanation mode did not see ({listed(unseen)})" if unseen else "a wrong rule"
    return (
        f"the map is not the network's: with dynamic factors held, the network misses it by {missing:.1e} of its size "
        f"at another point, because of {what}; TorchScript, other threads (DataParallel) and custom autograd functions "
        "are not seen: give the plain module, or a rule with bcos_core.register_rules"
    )
