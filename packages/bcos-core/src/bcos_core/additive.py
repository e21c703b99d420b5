"""The additive part of a network: which constants it adds, and what each contributes to an output.

With its dynamic factors frozen a network is affine in its input x *and* in every constant c that it adds anywhere
(biases, norm shifts, positions), so ``f = Σ ∂f/∂x·x + Σ ∂f/∂c·c``. The second sum, measured here, is the ``b(x)`` of ``f(x) = W(x)·x + b(x)``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

UNNAMED = "constant"


class AdditiveTerms:
    """Collects the constants added in one forward pass, each as a leaf with a copy for every sample.

    Args:
        model: whose parameters and buffers give the terms their names.
        x: the input, the only leaf that is no constant.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._names = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self._input = x
        self.names: list[str] = []
        self.leaves: list[Tensor] = []

    def is_constant(self, value: object) -> bool:
        """Whether `value` does not depend on the input (through anything but frozen factors)."""
        if not isinstance(value, Tensor):
            return isinstance(value, int | float)
        return value is not self._input and (not value.requires_grad or value.is_leaf)

    def leaf(self, value: Tensor | float, beside: Tensor, name_of: object = None) -> Tensor:
        """Stand-in for `value`, to be added to `beside`, through which its contribution is measured.

        Args:
            value: the constant, broadcastable with `beside`.
            beside: (N, ...), the other operand.
            name_of: the parameter or buffer that gives the term its name; `value` itself if None.
        """
        constant = value.detach() if isinstance(value, Tensor) else beside.new_tensor(value)
        if constant.ndim <= beside.ndim:
            constant = constant.reshape((1,) * (beside.ndim - constant.ndim) + constant.shape)
            if constant.shape[0] == 1:
                constant = constant.expand(beside.shape[0], *constant.shape[1:])
        constant = constant.clone().requires_grad_()
        self.names.append(self._names.get(id(value if name_of is None else name_of), UNNAMED))
        self.leaves.append(constant)
        return constant

    def contributions(self, gradients: tuple[Tensor | None, ...], n: int) -> dict[str, Tensor]:
        """``Σ ∂f/∂c·c`` for each sample, (N,), by the name of the term."""
        shares: dict[str, Tensor] = {}
        for name, leaf, gradient in zip(self.names, self.leaves, gradients, strict=True):
            if gradient is None:  # added inside a frozen factor
                continue
            share = (gradient * leaf.detach()).reshape(n, -1).sum(1)
            shares[name] = shares[name] + share if name in shares else share
        return shares


_TERMS: ContextVar[AdditiveTerms | None] = ContextVar("bcos_additive_terms", default=None)


@contextmanager
def measured(terms: AdditiveTerms) -> Iterator[None]:
    """Collect the constants added inside the block into `terms`."""
    token = _TERMS.set(terms)
    try:
        yield
    finally:
        _TERMS.reset(token)


def shift(x: Tensor, constant: Tensor, name_of: Tensor | None = None) -> Tensor:
    """``x + constant``, measured if somebody asked."""
    terms = _TERMS.get()
    return torch.add(x, constant if terms is None else terms.leaf(constant, x, name_of))


def current_terms() -> AdditiveTerms | None:
    """Return the collection that is being filled, if any."""
    return _TERMS.get()
