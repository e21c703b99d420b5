"""The evidence for a map: which steps of a forward pass went through explanation mode.

A sum that comes out right proves little: without biases it comes out right for the plain gradient of many networks
too. So every step between input and score is accounted for. Explanation mode sees the calls of PyTorch functions
in its own thread; it does not see TorchScript, other threads, nor what a custom ``autograd.Function`` computes.
Those leave nodes in the graph that no rule has made, or constants that came from nowhere.
"""

import pickle
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

_HARMLESS = frozenset(
    f"{name}Backward{number}"
    for name in (
        *("Alias", "AsStrided", "View", "UnsafeView", "ReshapeAlias", "Expand", "Select", "Slice", "T", "Transpose"),
        *("Permute", "Squeeze", "Unsqueeze", "Unbind", "Split", "SplitWithSizes", "Clone"),
    )
    for number in range(3)
) | {"CopySlices", "CopyBackwards"}
"""Steps that only move elements; autograd itself creates them for views of tensors that are changed in place."""


class Audit:
    """Evidence, collected during one forward pass, of whether its map can be trusted."""

    def __init__(self) -> None:
        self._types: dict[Node | None, torch.dtype] = {}
        """Floating types of values that depend on the input, by the node that made them; None for the input."""
        self.random = False
        """Whether a function was called that draws at random."""
        self.unknown = False
        """Whether a tensor was used that is neither the model's nor the result of a call that was seen."""
        self.escaped = False
        """Whether values that depend on the input left PyTorch, as numbers, arrays or memory."""
        self.leaves: set[int] = set()
        """Ids of the tensors at which the graph may begin: the input and the constants beside it."""
        self._vouched: set[Node] = set()  # nodes are kept, since the next one could be given the same address
        self._suspicious = False
        self._doubts: dict[str, None] = {}

    def note_types(self, values: Iterable[Tensor]) -> None:
        """Note the floating types of those of the tensors that carry a gradient."""
        for tensor in values:
            if tensor.requires_grad and (tensor.is_floating_point() or tensor.is_complex()):
                self._types[tensor.grad_fn] = tensor.dtype

    def types_of(self, scores: Tensor) -> frozenset[torch.dtype]:
        """Floating types of the values from which `scores` were computed; of side branches, none."""
        found = frozenset(self._types.values())
        if len(found) > 1:
            found = frozenset(self._types[node] for node in (None, *_way_to(scores)) if node in self._types)
        return found

    def vouch(self, before: set[Node], values: Iterable[Tensor]) -> None:
        """Note that a rule has made the nodes between `before` and these tensors."""
        # What lies between the arguments and the result was created inside the rule's call. The walk stops at nodes
        # that were vouched for, so each node is visited once in a forward pass, however deep the network is.
        stack = [node for t in values if (node := t.grad_fn) is not None]
        while stack:
            node = stack.pop()
            if node in self._vouched:
                continue
            if node in before or not self._is_ours(node):
                self._suspicious = True
                continue
            self._vouched.add(node)
            stack += [parent for parent, _ in node.next_functions if parent is not None and not self._is_source(parent)]

    def doubt(self, name: str) -> None:
        """Note that the model used a function by which it can change gradients unseen."""
        self._doubts[name] = None

    def unseen_steps(self, scores: Tensor) -> list[str]:
        """Names, each once, of the doubts and of the steps on the way to `scores` that no rule has made."""
        if not self._suspicious and not self._doubts and scores.grad_fn in self._vouched:
            return []
        found = dict(self._doubts)
        for node in _way_to(scores):
            if not self._is_source(node) and node not in self._vouched and type(node).__name__ not in _HARMLESS:
                found[type(node).__name__.removesuffix("0").removesuffix("Backward")] = None
        return list(found)

    def _is_source(self, node: Any) -> bool:
        return _starts(node) and id(node.variable) in self.leaves

    @staticmethod
    def _is_ours(node: object) -> bool:
        """Whether a rule can have made the node; nothing but its author vouches for a custom derivative."""
        return not isinstance(node, BackwardCFunction) and not _starts(node)


def _way_to(scores: Tensor) -> Iterator[Node]:
    """Yield all nodes of the graph from which `scores` were computed, each once, from the end."""
    stack, visited = [scores.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        yield node
        stack += [parent for parent, _ in node.next_functions]


def _starts(node: Any) -> bool:
    """Whether the graph begins here, at a tensor that requires a gradient of its own."""
    return type(node).__name__ == "AccumulateGrad"


def nodes(values: Iterable[Tensor]) -> set[Node]:
    """Last nodes in the graph of the tensors."""
    return {node for t in values if t.requires_grad and (node := t.grad_fn) is not None}


def random_state(device: torch.device) -> Callable[[], bool]:
    """Remember the state of PyTorch's random generators; call the result to learn whether it has changed."""

    def read() -> Iterable[Tensor]:
        yield torch.get_rng_state()
        if device.type == "cuda":
            yield torch.cuda.get_rng_state(device)

    def others() -> list[object]:
        """The states of Python's generator and of NumPy's own, to be compared by value."""
        numpy: Any = sys.modules.get("numpy")
        return [random.getstate(), *([] if numpy is None else [pickle.dumps(numpy.random.get_state(legacy=False))])]

    before, states = list(read()), others()
    return lambda: states != others() or not all(torch.equal(a, b) for a, b in zip(before, read(), strict=True))
