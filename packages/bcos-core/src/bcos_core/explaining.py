"""Reading off ``W(x)`` and ``b(x)``."""

import math

import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors, disable_saved_tensors_hooks

from bcos_core.additive import AdditiveTerms, measured
from bcos_core.errors import BcosError
from bcos_core.explanation import Explanation
from bcos_core.mode import explanation_mode
from bcos_core.structure import shared_copy
from bcos_core.targets import Target, select

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Share of Σ|contributions| + |bias| + largest |output| that may be missing before an explanation is refused.

Where a lower precision is used anywhere, it is not checked.
"""
_SUSPICIOUS = 1e-3
"""Share from which samples may lie in another dimension than the first, in lower precisions."""


def explain(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    layer: str | nn.Module | None = None,
    relative: bool = False,
) -> Explanation:
    """Explain outputs of `model` for a batch of inputs, exactly.

    One forward pass in :func:`bcos_core.explanation_mode`, one backward pass for each target of an image.
    Gradients of parameters are not touched; works inside ``torch.no_grad`` and ``torch.inference_mode`` too.

    Args:
        model: in eval mode where that matters (batch norms, dropout).
        x: (N, C, *spatial) or (N, F), floating point and finite, encoded as the network expects it.
        target: what to explain for each input: None for the largest output, an integer for all, (N,) or (N,
            T) integers for each, or a callable that maps the outputs to (N,) or (N, T) values of one's own,
            such as ``lambda z: z[:, 3] - z[:, 5]``.
        layer: a submodule, or its name, whose outputs are explained instead of the model's. Integer targets
            then count its channels: dimension 1 of (N, K) and (N, K, *spatial), the last one of tokens (N, T,
            K), which three dimensions mean unless the layer is a convolution or batch norm; a channel is
            summed over positions. A callable gets the layer's output as it is.
        relative: explain the distance of the target from the mean of all outputs, ``z_k - mean(z)``: what
            speaks for this class in particular.

    Returns:
        An :class:`Explanation` with ``score = Σ weight·x + bias`` for every input and target.

    Raises:
        BcosError: wrong rank, no or non-finite values, a target out of range, an unknown layer, a model in
            train mode whose outputs would differ, or one whose contributions do not add up because it holds
            an operation that explanation mode does not know.

    >>> from bcos_core import BcosConv2d
    >>> model = nn.Sequential(BcosConv2d(6, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> e = explain(model, torch.rand(2, 6, 8, 8), target=3)
    >>> e.map.shape
    torch.Size([2, 8, 8])
    >>> torch.testing.assert_close(e.map.sum((1, 2)) + e.bias, e.logits[:, 3])

    Source: Böhle et al., TPAMI 2024, equations 6 to 8 and section 3.2.
    """
    _check_input(x)
    module = _find_layer(model, layer)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            with disable_saved_tensors_hooks("activations are recomputed by checkpointing"):
                return _explained(model, module, x, target, relative)
        except RuntimeError as reason:
            if "checkpoint" in str(reason):
                raise BcosError(
                    "cannot explain a model that recomputes its activations; turn checkpointing off first "
                    "(set_grad_checkpointing(False), gradient_checkpointing_disable())"
                ) from reason
            if "modified by an inplace operation" not in str(reason):
                raise
        with allow_mutation_on_saved_tensors():  # slower: the model changes what an earlier step has to remember
            return _explained(model, module, x, target, relative)


def _explained(model: nn.Module, module: nn.Module | None, x: Tensor, target: Target, relative: bool) -> Explanation:
    leaf = x.detach().clone().requires_grad_()
    terms = AdditiveTerms(model)
    with explanation_mode(model):
        seen = leaf.clone()  # no leaf itself: the model may change it in place
        with measured(terms):
            outputs = _outputs(model, module, seen)
            logits, scores, indices = select(outputs, target, relative, module, n=x.shape[0])
        largest = outputs.detach().flatten(1).abs().amax(1)  # differences of outputs have the rounding error of these
        return _read_off(leaf, logits, scores, indices, terms, largest)


def _read_off(
    leaf: Tensor, logits: Tensor, scores: Tensor, indices: Tensor, terms: AdditiveTerms, largest: Tensor
) -> Explanation:
    """One backward pass for each column of `scores` (N, T)."""
    weights, shares = [], []
    for column in scores.unbind(1):
        weight, share = _one_target(leaf, column, terms, largest)
        weights.append(weight)
        shares.append(share)

    def joined(columns: list[Tensor]) -> Tensor:
        return torch.stack(columns, dim=1) if indices.ndim == 2 else columns[0].clone()

    columns = list(scores.detach().unbind(1))
    zero = torch.zeros_like(columns[0])
    names = dict.fromkeys(name for share in shares for name in share)
    bias_terms = {name: joined([share.get(name, zero) for share in shares]) for name in names}
    return Explanation(
        input=leaf.detach().clone(),
        logits=logits.detach().clone(),
        target=indices.clone(),
        score=joined(columns),
        weight=joined(weights),
        bias=sum(bias_terms.values(), start=joined([zero] * len(columns))),
        bias_terms=bias_terms,
    )


def _one_target(
    leaf: Tensor, scores: Tensor, terms: AdditiveTerms, largest: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Dynamic linear map (N, C, *spatial) and additive shares (N,) of `scores` (N,)."""
    if not scores.requires_grad:
        raise BcosError(
            "the output does not depend on the input through anything that is not frozen: the model's forward runs "
            "under no_grad or inference_mode, or the target is a frozen quantity; explain a logit, not its softmax or "
            "sigmoid, of a model that records gradients"
        )
    sources = [leaf, *terms.leaves]
    gradients = torch.autograd.grad(scores.sum(), sources, retain_graph=True, allow_unused=True)
    weight = torch.zeros_like(leaf) if gradients[0] is None else gradients[0]
    shares = terms.shares(scores, gradients[1:])
    dtypes = {scores.dtype, leaf.dtype, *terms.dtypes}
    allowed = max(_TOLERANCE.get(dtype, math.inf) for dtype in dtypes)
    missing = math.inf if shares is None else _missing(leaf, weight, shares, scores, largest)
    if shares is None or missing > min(allowed, _SUSPICIOUS):
        one_by_one = terms.shares_one_by_one(scores)  # the samples may be in another dimension than the first
        if shares is None or _missing(leaf, weight, one_by_one, scores, largest) < missing:
            shares = one_by_one
    missing = _missing(leaf, weight, shares, scores, largest)
    if not missing <= allowed:
        raise BcosError(
            f"the contributions and the bias miss the output by {missing:.1e} of their size (allowed: {allowed:.0e}): "
            "the model has an operation whose dynamic factor is not frozen, or that adds a constant in a way that is "
            "not measured; wrap the factor in bcos_core.freeze, add constants with +, or use layers of bcos_core"
        )
    return weight, shares


def _missing(leaf: Tensor, weight: Tensor, shares: dict[str, Tensor], scores: Tensor, largest: Tensor) -> float:
    """Largest share of ``Σ |contributions| + |bias| + largest |output|`` that contributions and bias miss."""
    contributions = (weight * leaf).detach().flatten(1)
    score = scores.detach()
    bias = sum(shares.values(), start=torch.zeros_like(score))
    size = contributions.abs().sum(1) + bias.abs() + torch.maximum(score.abs(), largest)
    missing = (score - contributions.sum(1) - bias).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)
    return float(missing.max())


def _check_input(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise BcosError(f"explain needs a floating point tensor, got {kind}; convert images to floats in [0, 1]")
    if x.ndim < 2 or x.numel() == 0:
        raise BcosError(
            f"explain needs a batch (N, C, H, W) with at least one element, got shape {tuple(x.shape)}; "
            "use x[None] for one image"
        )
    if not bool(torch.isfinite(x).all()):
        raise BcosError(
            f"the input holds {int((~torch.isfinite(x)).sum())} non-finite values (NaN or infinity); remove them first"
        )


def _find_layer(model: nn.Module, layer: str | nn.Module | None) -> nn.Module | None:
    if not isinstance(model, nn.Module):
        raise BcosError(f"explain needs a torch.nn.Module, got {type(model).__name__}")
    if layer is None:
        return None
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in modules:
            raise BcosError(f"the model has no layer {layer!r}; it has {', '.join(list(modules)[1:9])}, ...")
        return modules[layer]
    if not any(layer is m for m in modules.values()):
        raise BcosError(f"the given layer ({type(layer).__name__}) is not part of the model")
    return layer


def _outputs(model: nn.Module, module: nn.Module | None, x: Tensor) -> Tensor:
    """The model's output for x, or that of one of its modules."""
    output = model(x) if module is None else _layer_output(model, module, x)
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[0] != x.shape[0]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BcosError(f"explain needs outputs of shape ({x.shape[0]}, K, ...), the model or layer gives {got}")
    if not bool(torch.isfinite(output).all()):
        raise BcosError("the model's outputs are not finite; check its weights and precision")
    return output


def _layer_output(model: nn.Module, module: nn.Module, x: Tensor) -> object:
    captured: list[object] = []

    def capture(_module: nn.Module, _args: object, output: object) -> None:
        captured.append(output.clone() if isinstance(output, Tensor) else output)  # in-place layers may follow

    name = next(name for name, candidate in model.named_modules() if candidate is module)
    copied = shared_copy(model)
    copied.get_submodule(name).register_forward_hook(capture)
    copied(x)
    if not captured:
        raise BcosError(f"the layer {type(module).__name__} did not run in the model's forward pass")
    return captured[-1]
