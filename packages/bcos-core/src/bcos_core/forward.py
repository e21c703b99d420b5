"""One forward pass in explanation mode, of a model or up to one of its layers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core.additive_terms import AdditiveTerms, collect
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


@dataclass(frozen=True)
class Pass:
    """One forward pass in explanation mode."""

    leaf: Tensor
    logits: Tensor
    scores: Tensor
    """(N, T)"""
    indices: Tensor
    outputs: Tensor
    """(N, K, ...), detached."""
    terms: AdditiveTerms

    @property
    def largest(self) -> Tensor:
        """(N,): absolute value of the largest output."""
        return self.outputs.flatten(1).abs().amax(1)


def forward(task: Task, x: Tensor, tape: Tape | None = None) -> Pass:
    """Run the model on `x` in explanation mode, measuring constants; outputs that are not finite are refused.

    A tape records the dynamic factors, or gives out those that it has recorded.
    """
    leaf = x.detach().clone().requires_grad_()
    terms = AdditiveTerms(task.model)
    terms.audit.leaves.add(id(leaf))
    given = leaf.clone()  # the model may change it in place, which a leaf does not allow
    terms.audit.vouch(set(), given)
    with explanation_mode(task.model), collect(terms), run_tape(tape):
        outputs = outputs_of(task, given)
        unknown = terms.audit.unknown
        logits, scores, indices = select(outputs, task.target, task.relative, task.module, n=x.shape[0])
        terms.audit.unknown = unknown  # tensors of a callable target are the caller's, not the model's
    if not bool(torch.isfinite(outputs).all()):
        raise BcosError("the model's outputs are not finite; check its weights and precision")
    return Pass(leaf, logits, scores, indices, outputs.detach(), terms)


def check_input(x: Tensor) -> None:
    """Refuse anything but a batch of finite floating-point values."""
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


def outputs_of(task: Task, x: Tensor) -> Tensor:
    """Output of the model for x, or of the layer that is explained; refused if of another shape than (N, K, ...)."""
    output = task.model(x) if task.module is None else _layer_output(task.model, task.module, x)
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[0] != x.shape[0]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BcosError(f"explain needs outputs of shape ({x.shape[0]}, K, ...), the model or layer gives {got}")
    return output


def _layer_output(model: nn.Module, module: nn.Module, x: Tensor) -> object:
    outputs, _ = layer_outputs(model, module, x)
    if len(outputs) > 1:
        raise BcosError(
            f"the layer {layer_name(model, module)!r} ({type(module).__name__}) runs {len(outputs)} times in the "
            "model's forward pass, so it has no single output; explain a layer that runs once"
        )
    return outputs[0]
