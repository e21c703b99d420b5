"""The additive part of a network: which constants it adds, and what each contributes to an output.

With its dynamic factors frozen a network is affine in its input x *and* in every constant c that it adds
anywhere (biases, norm shifts, positions), so ``f = Σ ∂f/∂x·x + Σ ∂f/∂c·c``. The second sum, measured here, is
the ``b(x)`` of ``f(x) = W(x)·x + b(x)``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core.audit import Audit
from bcos_core.dependence import depends, tensors
from bcos_core.errors import BcosError
from bcos_core.functorch import is_transformed

UNNAMED = "constant"
ARGUMENT = "argument "
"""What names of further arguments of the model begin with."""
FROZEN = " (frozen)"
"""Suffix of the name of a value that depends on the input but is held constant."""
LOGIT_BIAS = "logit bias"
"""Name of the constant that a :class:`bcos_core.LogitLayer` adds."""
SCALED_LOGIT_BIAS = "logit bias (scaled)"
"""The same, multiplied with what may differ from image to image."""
_UNSCALED = 1e-4
"""How far a multiple of the logit bias may be from a whole number, for rounding."""
_NAME = "_bcos_additive_name"
_PLAIN = frozenset((bool, int, float, str, type(None)))
"""Types of most attributes of modules, which hold no tensor."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that PyTorch gives every module: hooks, and what holds parameters, buffers and modules."""


class AdditiveTerms:
    """Collects the constants added in one forward pass, each as a leaf of its own for autograd.

    While it is filled, parameters enter every operation detached (see :mod:`bcos_core.rules.dispatch`): a tensor
    then requires a gradient exactly if it depends on the input.
    """

    def __init__(self, model: nn.Module) -> None:
        self._named = _tensors_of(model)
        self._detached: dict[int, Tensor] = {}
        self._written: dict[int, Tensor] = {}
        self.names: list[str] = []
        self.leaves: list[Tensor] = []
        self.audit = Audit()

    def note_written(self, tensor: Tensor) -> None:
        """Note that what depends on the input was written into a constant, unrecorded: other views of it see that."""
        self._written[tensor.untyped_storage().data_ptr()] = tensor

    def name_of(self, value: object) -> str | None:
        """Name of a constant; one that was written over is frozen, whatever the view of it is called."""
        name = name_of(value)
        if not self._written or not isinstance(value, Tensor) or (name or "").endswith(FROZEN):
            return name
        written = self._written.get(value.untyped_storage().data_ptr())
        return name if written is None else name_of(written)

    def without_gradient(self, tensor: Tensor) -> Tensor:
        """`tensor`, detached and named if it is a parameter or buffer of the model, or another leaf."""
        known = self._named.get(id(tensor))
        if known is None and not (tensor.requires_grad and tensor.is_leaf):
            return tensor
        if is_frozen(tensor):  # kept by the model since an earlier step
            return tensor
        if id(tensor) not in self._detached:
            if known is None:
                self._named[id(tensor)] = (tensor, UNNAMED)  # kept alive, so that its id stays its own
            self._detached[id(tensor)] = name_as(tensor.detach(), self._named[id(tensor)][1])
        return self._detached[id(tensor)]

    def leaf(self, value: Any, beside: Tensor, *, broadcast: bool = True) -> Tensor:
        """Stand-in for the constant `value`, through which its contribution is measured.

        Args:
            value: a number or a tensor.
            beside: (N, ...), the other operand, with which it is promoted to a common type.
            broadcast: whether it is broadcast with `beside`; it then gets a copy for each sample.
        """
        if is_transformed():
            raise BcosError(
                "cannot explain: the model adds a constant inside of torch.func.vmap, where it cannot be measured; "
                "call it in a loop instead"
            )
        name = self.name_of(value) or UNNAMED
        dtype = torch.result_type(beside, value)
        constant = torch.as_tensor(value, dtype=dtype, device=beside.device).detach()
        if broadcast and constant.ndim <= beside.ndim and beside.ndim:
            constant = constant.reshape((1,) * (beside.ndim - constant.ndim) + constant.shape)
            if constant.shape[0] == 1:
                constant = constant.expand(beside.shape[0], *constant.shape[1:])
        # Autograd sums the gradient of a constant over the batch. A leaf of its own for each use, with a copy for each
        # sample, keeps samples and uses apart in a single backward pass, whose cost is that of the map alone.
        leaf = constant.clone().requires_grad_()
        self.names.append(name)
        self.leaves.append(leaf)
        self.audit.leaves.add(id(leaf))
        return leaf.clone()  # a leaf must not be changed in place, a copy may

    def shares(self, scores: Tensor, gradients: tuple[Tensor | None, ...]) -> dict[str, Tensor] | None:
        """``Σ ∂f/∂c·c`` for each sample, (N,), by name; None if samples are not the first dimension of each.

        `gradients` are those of ``scores.sum()``, (N,), by each of the leaves.
        """
        used = [leaf for leaf, gradient in zip(self.leaves, gradients, strict=True) if gradient is not None]
        if any(leaf.ndim == 0 or leaf.shape[0] % len(scores) for leaf in used):
            return None
        return self._checked(self._summed(gradients, lambda share: share.reshape(len(scores), -1).sum(1)))

    def shares_one_by_one(self, scores: Tensor) -> dict[str, Tensor]:
        """The same as :meth:`shares` for constants of any layout, in a backward pass for each sample."""
        if not self.leaves:
            return {}
        rows = [
            self._summed(torch.autograd.grad(score, self.leaves, retain_graph=True, allow_unused=True), torch.sum)
            for score in scores
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        zero = torch.zeros_like(scores[0]).detach()
        return self._checked({name: torch.stack([row.get(name, zero) for row in rows]) for name in names})

    def _checked(self, shares: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename a logit bias that is neither the constant nor a sum of it: a gate makes it differ among images."""
        if LOGIT_BIAS not in shares:
            return shares
        constants = {
            float(leaf.detach().flatten()[0])
            for n, leaf in zip(self.names, self.leaves, strict=True)
            if n == LOGIT_BIAS
        }
        times = shares[LOGIT_BIAS].double() / constants.pop()
        if constants or bool(((times - times.round()).abs() > _UNSCALED).any()):
            shares[SCALED_LOGIT_BIAS] = shares.pop(LOGIT_BIAS)
        return shares

    def _summed(self, gradients: tuple[Tensor | None, ...], total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Totals of ``∂f/∂c·c`` by name; what is added inside a frozen factor has no gradient."""
        sums: dict[str, Tensor] = {}
        for name, leaf, gradient in zip(self.names, self.leaves, gradients, strict=True):
            if gradient is not None:
                share = total(_product(gradient, leaf))
                sums[name] = sums[name] + share if name in sums else share
        return sums


def _tensors_of(model: nn.Module) -> dict[int, tuple[Tensor, str]]:
    """Parameters, buffers, and the tensors that modules keep as plain attributes, with their names, by id."""
    attributes: dict[int, tuple[Tensor, str]] = {}
    buffers: dict[int, tuple[Tensor, str]] = {}
    parameters: dict[int, tuple[Tensor, str]] = {}
    for owner, module in model.named_modules():  # one walk for all: of a large network each takes milliseconds
        prefix = f"{owner}." if owner else ""
        for name, value in vars(module).items():
            if name not in _OF_EVERY_MODULE and type(value) not in _PLAIN:
                attributes |= {id(tensor): (tensor, f"{prefix}{name}") for tensor in tensors(value)}
        for found, held in ((buffers, module._buffers), (parameters, module._parameters)):
            for name, tensor in held.items():
                if tensor is not None:  # of several names, the first
                    found.setdefault(id(tensor), (tensor, f"{prefix}{name}"))
    return attributes | buffers | parameters


def _product(gradient: Tensor, leaf: Tensor) -> Tensor:
    """``∂f/∂c · c``; 0 where the gradient is, also for the infinite constants of masks and padding."""
    product = torch.where(gradient == 0, 0, gradient.conj() * leaf.detach())
    return product.real if product.is_complex() else product


_TERMS: ContextVar[AdditiveTerms | None] = ContextVar("bcos_additive_terms", default=None)


@contextmanager
def collect(terms: AdditiveTerms) -> Iterator[None]:
    """Collect the constants added inside the block into `terms`."""
    token = _TERMS.set(terms)
    try:
        yield
    finally:
        _TERMS.reset(token)


def current_terms() -> AdditiveTerms | None:
    """Return the collection that is being filled, if any."""
    return _TERMS.get()


def shift(x: Tensor, constant: Tensor) -> Tensor:
    """``x + constant``; the constant is measured where terms are collected."""
    terms = _TERMS.get()
    if terms is None or depends(constant):
        return torch.add(x, constant.to(x.dtype))
    return torch.add(x, terms.leaf(constant, x).to(x.dtype))


def name_of(value: object) -> str | None:
    """Name of the parameter or buffer that `value` is, or was computed from."""
    return getattr(value, _NAME, None)


def is_frozen(value: object) -> bool:
    """Whether `value` depends on the input without carrying its gradient."""
    return (name_of(value) or "").endswith(FROZEN)


def name_as(value: Any, name: str) -> Any:
    """Give a constant a name."""
    setattr(value, _NAME, name)
    return value


def named_like(source: object, value: Any) -> Any:
    """Give a constant the name of the one it was computed from, if that has one."""
    name = name_of(source)
    return value if name is None else name_as(value, name)
