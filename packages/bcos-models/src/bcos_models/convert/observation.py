"""What a network does with one batch: what runs, what is a gate, where the image enters and the logits come from."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_core import explanation_mode
from bcos_core.errors import BcosError
from bcos_models.conversion import Decisions
from bcos_models.convert.rules import MAX_POOLS, NORMS, WEIGHTED, is_activation

_FUNCTIONS: dict[Callable[..., Any], str] = {
    **{getattr(F, name): name for name in ("relu", "gelu", "silu", "mish", "hardswish", "leaky_relu", "elu")},
    **{getattr(F, name): name for name in ("max_pool1d", "max_pool2d", "max_pool3d")},
    torch.max_pool2d: "max_pool2d",
    **dict.fromkeys((torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu_), "relu"),
}
"""Operations that a conversion cannot replace where a forward method calls them as functions."""


@dataclass(frozen=True)
class Observation:
    """What a network does with one batch."""

    logits: Tensor
    called: frozenset[str]
    """Modules that ran."""
    decisions: Decisions
    """What follows for a conversion."""


def observe(network: nn.Module, image: Tensor) -> Observation:
    """Run a classifier in eval mode, once as it is and once in explanation mode."""
    found = _run(network, image)
    return replace(found, decisions=replace(found.decisions, gates=tuple(sorted(_gates(network, image)))))


def _run(network: nn.Module, image: Tensor) -> Observation:
    names = {module: name for name, module in network.named_modules()}
    ends: list[tuple[str, Tensor, Tensor]] = []  # classifier candidates: name, input, output
    pooled: list[tuple[str, Tensor, bool]] = []
    called: set[str] = set()
    image_layers: list[str] = []

    def record(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        called.add(names[module])
        x = given[0] if given and isinstance(given[0], Tensor) else None
        if x is None or not isinstance(output, Tensor):
            return
        if isinstance(module, nn.modules.conv._ConvNd) and x.shape == image.shape and torch.equal(x, image):
            image_layers.append(names[module])
        if isinstance(module, WEIGHTED) and output.flatten(1).ndim == 2 and output.flatten(1).shape[1] < 100_000:
            ends.append((names[module], x, output))
        elif x.ndim == 4 and output.numel() < x.numel():
            averaged = [dims for dims in ((2, 3), (1, 2)) if _is_mean(x, output, dims)]
            pooled.extend((names[module], output, dims == (1, 2)) for dims in averaged[:1])

    counter = _Functions()
    with torch.no_grad(), _hooked(network.modules(), counter.enter, record, counter.leave), counter:
        logits = network(image)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(image):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BcosError(f"bcosify needs a classifier, whose output has shape (N, K); this network's is {got}")
    found = Decisions(image_layers=tuple(image_layers), functions=dict(counter.found))
    for name, x, output in reversed(ends):
        if output.numel() == logits.numel() and torch.equal(output.flatten(1), logits):
            found = replace(found, classifier=name)
            for pool, y, channels_last in pooled:  # the outermost ends last
                if y.numel() == x.numel() and torch.equal(y.flatten(1), x.flatten(1)):
                    found = replace(found, pool=pool, channels_last=channels_last)
            break
    return Observation(logits, frozenset(called), found)


def _is_mean(x: Tensor, output: Tensor, dims: tuple[int, int]) -> bool:
    mean, y = x.mean(dims), output.flatten(1)
    return mean.shape == y.shape and torch.allclose(mean, y, rtol=1e-4, atol=1e-6)


def _gates(network: nn.Module, image: Tensor) -> set[str]:
    """Name the modules whose outputs the logits do not depend on while dynamic factors are frozen."""
    outputs: list[tuple[str, Tensor]] = []
    names = {module: name for name, module in network.named_modules()}

    def record(module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.is_floating_point():
            outputs.append((names[module], output))

    leaves = [m for m in network.modules() if isinstance(m, (*WEIGHTED, *NORMS, *MAX_POOLS)) or is_activation(m)]
    with torch.enable_grad(), explanation_mode(network), _hooked(leaves, None, record, None):
        logits = network(image.clone().requires_grad_().clone())
        total = logits.sum()
    tensors = [t for _, t in outputs]
    reached = torch.autograd.grad(total, tensors, allow_unused=True) if tensors and total.requires_grad else ()
    alive = {name for (name, _), g in zip(outputs, reached, strict=False) if g is not None}
    ran = {name for name, _ in outputs}
    frozen_inside = {names[m] for m in leaves} - ran  # ran without a gradient, or did not run
    return (ran - alive) | frozen_inside


class _Functions(TorchFunctionMode):
    """Counts functions that are called in a forward method, not by the module that stands for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._running: list[nn.Module] = []

    def enter(self, module: nn.Module, *_: Any) -> None:
        self._running.append(module)

    def leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        inside = self._running[-1] if self._running else None
        own = inside is not None and (is_activation(inside) or isinstance(inside, MAX_POOLS))
        if func in _FUNCTIONS and not own:
            self.found[_FUNCTIONS[func]] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _hooked(modules: Iterable[nn.Module], before: Any, after: Any, last: Any) -> Iterator[None]:
    handles: list[Any] = []
    try:
        for module in modules:
            handles += [module.register_forward_pre_hook(before)] if before else []
            handles += [module.register_forward_hook(hook) for hook in (after, last) if hook]
        yield
    finally:
        for handle in handles:
            handle.remove()
