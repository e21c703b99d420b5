"""One forward pass in explanation mode, of a model or up to one of its layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core.additive_terms import ARGUMENT, AdditiveTerms, collect, name_as
from bcos_core.dependence import map_tensors, tensors
from bcos_core.errors import BcosError
from bcos_core.layers import layer_name, layer_outputs
from bcos_core.mode import explanation_mode
from bcos_core.tape import Tape, run_tape
from bcos_core.targets import Target, select


@dataclass(frozen=True)
class Task:
    """What is explained."""

    model: nn.Module
    module: nn.Module | None
    target: Target
    relative: bool
    argument: str | None = None
    """Name of the model's argument that the input is given as; None for the first."""
    args: Sequence[Any] = ()
    """Further arguments of the model."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def call(self, model: nn.Module, x: Tensor) -> Any:
        """Call `model`, a copy of the model or itself, for the input."""
        args = [_named(f"{i + 1}", value) for i, value in enumerate(self.args)]
        kwargs = {name: _named(name, value) for name, value in self.kwargs.items()}
        return model(x, *args, **kwargs) if self.argument is None else model(*args, **{self.argument: x}, **kwargs)


def _named(name: str, value: Any) -> Any:
    """The value, its tensors as constants that are called after the argument."""
    return map_tensors(lambda tensor: name_as(tensor.detach(), f"{ARGUMENT}{name}"), value)


@dataclass(frozen=True)
class Pass:
    """One forward pass in explanation mode."""

    leaf: Tensor
    logits: Tensor
    scores: Tensor
    """(N, T)"""
    indices: Tensor
    outputs: Sequence[Tensor]
    """Those of the network, each (N, ...), with their gradients."""
    terms: AdditiveTerms
    dtypes: frozenset[torch.dtype]
    """Floating types of the values from which the scores were computed."""

    def largest(self, scores: Tensor) -> Tensor:
        """``max |∂score/∂z · z|`` over the outputs z, (N,), for one column of the scores, (N,).

        What a score is a difference of, and so how far it is rounded. Outputs that it does not contain, such as those
        of classes that are masked with a large number, say nothing about it.
        """
        found = scores.detach().abs()
        for outputs in self.outputs:
            if outputs.requires_grad:
                (gradient,) = torch.autograd.grad(scores.sum(), outputs, retain_graph=True, allow_unused=True)
                if gradient is not None:
                    parts = torch.where(gradient == 0, 0, gradient.detach() * outputs.detach()).flatten(1).abs()
                    found = torch.maximum(found, parts.amax(1).to(found.dtype))
        return found


def forward(task: Task, x: Tensor, tape: Tape | None = None) -> Pass:
    """Run the model on `x` in explanation mode, measuring constants; outputs that are not finite are refused.

    A tape records the dynamic factors, or gives out those that it has recorded.
    """
    leaf = x.detach().clone().requires_grad_()
    terms = AdditiveTerms(task.model)
    terms.audit.leaves.add(id(leaf))
    given = leaf.clone()  # the model may change it in place, which a leaf does not allow
    terms.audit.vouch(set(), [given])
    with explanation_mode(task.model), collect(terms), run_tape(tape):
        outputs = outputs_of(task, given)
        unknown = terms.audit.unknown
        explained = task.model if task.module is None else task.module
        logits, scores, indices = select(outputs, task.target, task.relative, explained, n=x.shape[0])
        terms.audit.unknown = unknown  # tensors of a callable target are the caller's, not the model's
    values = values_of(outputs, scores)
    if scores.is_complex():
        example = "target=lambda out: out.real[:, 3]"
        raise BcosError(f"the model's outputs are complex; explain a real number, such as {example}")
    if not all(bool(torch.isfinite(value.detach()).all()) for value in values):
        raise BcosError("the model's outputs are not finite; check its weights and precision")
    return Pass(leaf, logits, scores, indices, values, terms, terms.audit.types_of(scores))


def check_input(x: Tensor, who: str = "explain") -> None:
    """Refuse anything but a batch of finite floating-point values, which `who` needs."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise BcosError(f"{who} needs a floating point tensor, got {kind}; convert images to floats in [0, 1]")
    if x.layout != torch.strided or x.is_meta:
        what = "on the device meta, which holds no values" if x.is_meta else f"of the layout {x.layout}"
        raise BcosError(f"{who} needs an ordinary tensor of numbers, got one {what}")
    if x.ndim < 2 or x.numel() == 0:
        raise BcosError(
            f"{who} needs a batch (N, C, H, W) with at least one element, got shape {tuple(x.shape)}; "
            "use x[None] for one image"
        )
    if not bool(torch.isfinite(x).all()):
        raise BcosError(
            f"the input holds {int((~torch.isfinite(x)).sum())} non-finite values (NaN or infinity); remove them first"
        )


def outputs_of(task: Task, x: Tensor) -> Any:
    """Output of the model for x, or of the layer that is explained.

    Tensors of another shape than (N, K, ...) are refused, and what is no tensor if no callable target picks from it.
    """
    output = task.call(task.model, x) if task.module is None else _layer_output(task, task.module, x)
    if isinstance(output, Tensor):
        if output.ndim < 2 or output.shape[0] != x.shape[0]:
            raise BcosError(
                f"explain needs outputs of shape ({x.shape[0]}, K, ...), the model or layer gives {tuple(output.shape)}"
            )
    elif not callable(task.target):
        example = "out['logits'][:, 3]" if isinstance(output, dict) else "out[0][:, 3]"
        raise BcosError(
            f"explain needs outputs of shape ({x.shape[0]}, K, ...), the model or layer gives {type(output).__name__}; "
            f"give a callable target that picks from it, such as lambda out: {example}"
        )
    return output


def values_of(outputs: Any, scores: Tensor) -> list[Tensor]:
    """All numbers of the outputs, each (N, ...); if they hold none for each input, the scores (N, T)."""
    if isinstance(outputs, Tensor):
        return [outputs]
    n = len(scores)
    found = tensors(vars(outputs) if is_dataclass(outputs) and not isinstance(outputs, dict) else outputs)
    return [t for t in found if t.is_floating_point() and t.ndim and t.shape[0] == n] or [scores]


def _layer_output(task: Task, module: nn.Module, x: Tensor) -> object:
    outputs, _ = layer_outputs(task.model, module, x, task.call)
    if len(outputs) > 1:
        raise BcosError(
            f"the layer {layer_name(task.model, module)!r} ({type(module).__name__}) runs {len(outputs)} times in the "
            "model's forward pass, so it has no single output; explain a layer that runs once"
        )
    return outputs[0]
