"""The function that explains: it reads ``W(x)`` and ``b(x)`` off a forward and a backward pass."""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors, disable_saved_tensors_hooks

from bcos_core.audit import random_state
from bcos_core.completeness import balance, is_rounding, rounding
from bcos_core.errors import BcosError, first_line
from bcos_core.explanation import Explanation
from bcos_core.forward import Pass, Task, check_input, forward
from bcos_core.layers import find_layer
from bcos_core.precision import full_float32, other_precision
from bcos_core.probe import PROBE, check_again, check_outputs, plain_outputs, probe_map, refusal
from bcos_core.targets import Target, with_indices
from bcos_core.text import listed

_SUSPICIOUS = 1e-3
"""Missing share above which samples are looked for in other dimensions than the first, in lower precisions too."""
_FINE = frozenset((torch.float32, torch.float64, torch.complex64, torch.complex128))
"""Types whose rounding hides no step that was not seen."""
_WITH_FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
"""Layers of PyTorch's that compute otherwise where no gradients are recorded."""
_MUTATION = threading.Lock()
_COMPARED: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
"""In which ways a network was explained whose outputs have been compared."""


def explain(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    layer: str | nn.Module | None = None,
    relative: bool = False,
    probe: bool | None = None,
    argument: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain outputs of `model` for a batch of inputs, exactly.

    One forward pass in :func:`bcos_core.explanation_mode`, one backward pass for each target of an image. The first
    time that a network with modules of other packages is explained, its outputs are compared with those it gives
    otherwise.
    Gradients of parameters are not touched; works inside ``torch.no_grad`` and ``torch.inference_mode`` too.

    Args:
        model: in eval mode where that matters (batch norms, dropout).
        x: (N, C, *spatial) or (N, F), floating point and finite, encoded as the network expects it.
        target: what to explain for each input: None for the largest output, an integer for all, (N,) or (N,
            T) integers for each, names instead of integers where the model has ``class_names``, or a callable
            that maps the outputs to (N,) or (N, T) values of your own, such as ``lambda z: z[:, 3] - z[:, 5]``.
            Outputs that are dictionaries, tuples or dataclasses need one: ``lambda out: out["logits"][:, 3]``.
        layer: a submodule, or its name, whose outputs are explained instead of the model's. Integer targets
            then count its channels: dimension 1 of (N, K) and (N, K, *spatial), the last one of tokens (N, T,
            K), as which three dimensions are read unless the layer is a convolution or batch norm; a channel is
            summed over positions. A callable gets the layer's output as it is.
        relative: explain the distance of the target from the mean of all outputs, ``z_k - mean(z)``: what
            speaks for this class in particular.
        probe: compute the frozen network at another point too, which must lie on the map that was read off;
            three more forward passes. None where something in the model was not seen by explanation mode
            (TorchScript, another thread, a custom autograd function, another package's rule).
        argument: name of the model's argument that `x` is; None for the first.
        args: further arguments of the model, after x. Their tensors are constants: what they add is bias.
        kwargs: further arguments by name.

    Returns:
        An :class:`Explanation` with ``score = Σ weight·x + bias`` for every input and target.

    Raises:
        BcosError: wrong rank, no or non-finite values, a target out of range, a layer that is unknown or runs
            more than once, a model that is in train mode or draws at random, or one that cannot be explained
            exactly: contributions and constants do not add up to the score, or the probe misses the map.

    >>> from bcos_core import BcosConv2d
    >>> model = nn.Sequential(BcosConv2d(6, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> e = explain(model, torch.rand(2, 6, 8, 8), target=3)
    >>> e.map.shape
    torch.Size([2, 8, 8])
    >>> torch.testing.assert_close(e.map.sum((1, 2)) + e.bias, e.logits[:, 3])

    Source: Böhle et al., TPAMI 2024, equations 6 to 8 and section 3.2.
    """
    check_input(x)
    if isinstance(model, nn.DataParallel):  # its copies run in threads of their own
        model = model.module
    if not isinstance(model, nn.Module):
        raise BcosError(f"explain needs a torch.nn.Module, got {type(model).__name__}")
    module = None if layer is None else find_layer(model, layer)
    task = Task(model, module, with_indices(model, target), relative, argument, args, kwargs or {})
    held = (b for m in model.modules() for b in m._buffers.values())
    buffers = [(b, b._version) for b in held if b is not None and not b.is_inference()]
    with torch.inference_mode(False), torch.enable_grad(), full_float32():
        try:
            with disable_saved_tensors_hooks("activations are recomputed by checkpointing"):
                return _explained(task, x, probe)
        except RuntimeError as reason:
            if "checkpoint" in str(reason):
                raise BcosError(
                    "cannot explain a model that recomputes its activations; turn checkpointing off first "
                    "(set_grad_checkpointing(False), gradient_checkpointing_disable()), and leave out other hooks on "
                    "what autograd saves (saved_tensors_hooks, save_on_cpu)"
                ) from reason
            if "Inference tensors" in str(reason):
                raise BcosError(
                    "cannot explain a model that was made under torch.inference_mode: autograd does not follow its "
                    "parameters; make or load it outside of that"
                ) from reason
            if not isinstance(reason, torch.OutOfMemoryError) and (cure := other_precision(model, x)):
                raise BcosError(f"{first_line(reason)}: {cure}") from reason
            if "modified by an inplace operation" not in str(reason):
                raise
            if any(buffer._version != version for buffer, version in buffers):
                raise BcosError(
                    "cannot explain a model that changes its buffers, and in place what autograd has saved: it would "
                    "have to be run twice; make what it saves a copy (h = h + 1 instead of h += 1)"
                ) from reason
        # Slower: for models that change in place what autograd has saved. One thread at a time, since PyTorch's switch
        # is one for all.
        with _MUTATION, allow_mutation_on_saved_tensors():
            return _explained(task, x, probe)


def _explained(task: Task, x: Tensor, probe: bool | None) -> Explanation:
    way, compared = _way(task, x), _COMPARED.setdefault(task.model, set())
    if way not in compared and _is_known(task.model):
        compared.add(way)
    outputs = None if way in compared else plain_outputs(task, x)
    has_changed = random_state(x.device)
    first = forward(task, x)
    audit = first.terms.audit
    if audit.random or audit.unknown or audit.escaped or has_changed():
        check_again(task, x, first)
    unseen = audit.unseen_steps(first.scores)
    if unseen and not first.dtypes <= _FINE:
        raise BcosError(
            f"cannot explain in a half precision: explanation mode did not see {listed(unseen)}, and rounding "
            "may hide in a check of the map what such a step does; explain the model in float32 (model.float())"
        )
    explanation = _read_off(first)
    if way not in compared:
        check_outputs(task, outputs, first)
        compared.add(way)
    if not (unseen or probe):
        return explanation
    explanation = replace(explanation, probe=probe_map(task, first, explanation))
    assert explanation.probe is not None
    if not bool(is_rounding(explanation.probe / PROBE, first.dtypes).all()):
        raise BcosError(refusal(unseen, float(explanation.probe.max())))
    return explanation


def _is_known(model: nn.Module) -> bool:
    """Whether a network is made of layers of ours and of PyTorch's alone, which compute alike with gradients or not."""
    return all(
        type(module).__module__.startswith(("bcos_core.", "bcos_models.", "torch.nn.modules."))
        and not isinstance(module, _WITH_FAST_PATHS)
        and "forward" not in vars(module)
        for module in model.modules()
    )


def _way(task: Task, x: Tensor) -> tuple[object, ...]:
    """In which way a network is explained, of which the first time its outputs are compared with those otherwise."""
    layer = None if task.module is None else id(task.module)
    given = bool(task.args or task.kwargs), callable(task.target), task.argument
    return layer, *given, x.dtype, torch.is_autocast_enabled(x.device.type)


def _read_off(first: Pass) -> Explanation:
    """One backward pass for each column of the scores (N, T)."""
    leaf, scores, indices = first.leaf, first.scores, first.indices
    found = [_one_target(first, column) for column in scores.unbind(1)]
    weights, shares, largest = zip(*found, strict=True)

    def joined(columns: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(columns), dim=1) if indices.ndim == 2 else columns[0].clone()

    columns = list(scores.detach().unbind(1))
    zero = torch.zeros_like(columns[0])
    names = dict.fromkeys(name for share in shares for name in share)
    bias_terms = {name: joined([share.get(name, zero) for share in shares]) for name in names}
    return Explanation(
        input=leaf.detach().clone(),
        logits=first.logits.detach().clone(),
        target=indices.clone(),
        score=joined(columns),
        weight=joined(weights),
        bias=sum(bias_terms.values(), start=joined([zero] * len(columns))),
        bias_terms=bias_terms,
        largest=joined(largest),
        dtypes=first.dtypes,
    )


def _one_target(first: Pass, scores: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Dynamic linear map (N, C, *spatial), additive shares (N,) and :meth:`Pass.largest` of `scores` (N,)."""
    if not scores.requires_grad:
        raise BcosError(
            "the output does not depend on the input through anything that is not frozen: the model's forward runs "
            "under no_grad or inference_mode, or the target is a frozen quantity; explain a logit, not its softmax or "
            "sigmoid, of a model that records gradients"
        )
    leaf, terms = first.leaf, first.terms
    largest = first.largest(scores)
    sources = [leaf, *terms.leaves]
    gradients = torch.autograd.grad(scores.sum(), sources, retain_graph=True, allow_unused=True)
    weight = torch.zeros_like(leaf) if gradients[0] is None else gradients[0]

    def missing_from(shares: dict[str, Tensor]) -> float:
        contributions = (weight * leaf).flatten(1)
        return float(balance(contributions, shares.values(), scores, largest=largest).missing.max())

    allowed = rounding(first.dtypes)
    shares = terms.shares(scores, gradients[1:])
    missing = math.inf if shares is None else missing_from(shares)
    if shares is None or missing > min(allowed, _SUSPICIOUS):
        # The sum over samples of one backward pass can be taken apart only where the first dimension of a constant
        # is that of the samples. Sequence-first networks have it elsewhere: a backward pass for each sample then.
        one_by_one = terms.shares_one_by_one(scores)
        again = missing_from(one_by_one)
        if shares is None or again < missing:
            shares, missing = one_by_one, again
    if not missing <= allowed:
        _check_independent(leaf, scores)
        unseen = terms.audit.unseen_steps(scores)
        raise BcosError(
            f"the contributions and the bias miss the output by {missing:.1e} of their size (allowed: {allowed:.1e}): "
            "the model has an operation whose dynamic factor is not frozen, or that adds a constant in a way that is "
            "not measured; wrap the factor in bcos_core.freeze, add constants with +, or use layers of bcos_core"
            + (f"; explanation mode did not see {listed(unseen)}" if unseen else "")
        )
    return weight, shares, largest


def _check_independent(leaf: Tensor, scores: Tensor) -> None:
    """Refuse a batch whose scores (N,) depend on each other's inputs."""
    for i, score in enumerate(scores):
        (gradient,) = torch.autograd.grad(score, leaf, retain_graph=True, allow_unused=True)
        others = [] if gradient is None else gradient.flatten(1).any(1).nonzero().flatten().tolist()
        if other := [j for j in others if j != i]:
            raise BcosError(
                f"the inputs of this batch see each other: the output for input {i} depends on input {other[0]}; "
                "explain one at a time, or, if the batch is one graph or one set, give it as one input, x[None], to a "
                "module that runs the model on x[0] and returns outputs (1, K)"
            )
