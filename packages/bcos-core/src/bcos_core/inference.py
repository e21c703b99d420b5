"""Networks for inference: weights normalised once, the scales of norms inside them."""

import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_core.completeness import largest_difference
from bcos_core.conv import BcosConv
from bcos_core.errors import BcosError
from bcos_core.forward import Task, forward
from bcos_core.functional import normalized_weight
from bcos_core.layers import full_copy
from bcos_core.linear import BcosLinear
from bcos_core.norms.batch import RunningNorm
from bcos_core.precision import widened
from bcos_core.probe import elsewhere

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of the outputs, as a share of their size; 1e-3 in other precisions."""


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of a network, for inference, that computes the same with fewer passes over its activations.

    B-cos layers normalise their weights in each forward pass; those of the copy are normalised already. Where an
    uncentred batch norm takes the output of such a layer, and nothing else does, its scale s goes into the weight:
    ``s · |wᵀx / ‖x‖|^(B-1) · wᵀx`` is the transform with ``sign(s) · |s|^(1/B) · w``, for every B. Norms with a bias,
    and those behind an addition or a concatenation, stay. W, contributions and biases of an explanation are those of
    the network up to rounding; for B other than 2, up to the 1e-6 that is added to |cos| before the power.

    Args:
        model: in eval mode; it is not changed.
        x: an input of the network, such as one image, with which it is run to see what takes which output.

    Returns:
        The copy, in eval mode. It is not for training, and its weights are not those of a checkpoint.

    Raises:
        BcosError: a network in train mode, one that cannot be copied, or whose copy would give another output.

    >>> import torch
    >>> from bcos_core import AddInverse, BcosConv2d, explain
    >>> from bcos_core.norms import BatchNormUncentered2d
    >>> network = nn.Sequential(BcosConv2d(6, 8, 3), BatchNormUncentered2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> x = AddInverse()(torch.rand(2, 3, 16, 16))
    >>> quick = folded(network.eval(), x)
    >>> torch.allclose(explain(quick, x).map, explain(network, x).map, atol=1e-5)
    True
    """
    if any(module.training for module in model.modules()):
        raise BcosError("a network is folded in eval mode, in which norms have fixed scales; call .eval() first")
    if reads_values(model, x):
        raise BcosError(
            "the network cannot be folded: it reads values of its input, and may take another path for another; use it "
            "as it is"
        )
    network = full_copy(model)
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()  # an inference tensor would make those of the copy the same
        inputs = (x, elsewhere(x, 1.0), 0.3 * x, 3 * x)  # a network may branch: norms are folded on the path of x
        expected = [model(given) for given in inputs]
        if not isinstance(expected[0], Tensor):
            name = type(expected[0]).__name__
            raise BcosError(f"a network is folded whose output is a tensor, this one gives {name}")
        for name, layer, norm in _pairs(network, x):
            scale = None if norm is None else norm.fixed_scale()
            if layer.max_out > 1 and scale is not None and bool((scale <= 0).any()):
                continue  # the largest unit would become the smallest
            _fold(layer, scale)
            if norm is not None:
                network.set_submodule(name, norm.without_scale().eval())
        found = [network(given) for given in inputs]
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or not largest_difference(a, b) <= _TOLERANCE.get(b.dtype, 1e-3):
            raise BcosError("the network cannot be folded: its copy gives another output; use it as it is")
    return network


def reads_values(model: nn.Module, x: Tensor) -> bool:
    """Whether values that depend on the input leave PyTorch, where a program can branch on them."""
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's, about numbers made of tensors
        try:
            return forward(Task(model, None, lambda outputs: outputs.flatten(1), False), x.clone()).terms.audit.escaped
        except Exception:  # what cannot be explained can be folded
            return False


def _fold(layer: Any, scale: Tensor | None) -> None:
    """Give a layer the weight of the product, with a factor for each output."""
    weight = normalized_weight(widened(layer.weight), layer.b, layer.normalize_weight)  # rounded once, at the end
    if scale is not None:
        scale = widened(scale)
        if layer.bias is not None:
            scaled = (layer.bias * scale).to(layer.bias.dtype)
            layer.bias = nn.Parameter(scaled, requires_grad=layer.bias.requires_grad)
        factor = (scale.sign() * scale.abs() ** (1 / layer.b)).repeat_interleave(layer.max_out)
        weight = weight * factor.to(weight.dtype).reshape(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)
    layer.normalize_weight = None


def _pairs(network: nn.Module, x: Tensor) -> list[tuple[str, Any, Any]]:
    """Run the network, and find its B-cos layers, each with the name of its norm and the norm, or None."""
    names = {module: name for name, module in network.named_modules()}
    runs = Counter[nn.Module]()
    given: dict[nn.Module, Tensor] = {}  # outputs of layers, inputs of norms
    watch = _Uses()

    def before(module: nn.Module, inputs: tuple[Any, ...], by_name: dict[str, Any]) -> None:
        runs[module] += 1
        if isinstance(module, RunningNorm):
            given[module] = inputs[0] if inputs else by_name["x"]
            watch.inside.append(given[module])

    def after(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, RunningNorm):
            watch.inside.pop()
        elif isinstance(module, BcosLinear) and output.ndim != 2:
            runs[module] += 1  # takes no scale, like one that runs twice: the norm's channels are not its outputs
        else:
            given[module] = output
            watch.outputs[id(output)] = output

    layers = [m for m in names if isinstance(m, BcosConv | BcosLinear) and m.folds and _is_as_we_wrote(m)]
    norms = [m for m in names if isinstance(m, RunningNorm) and m.folds and _is_as_we_wrote(m)]
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in (*layers, *norms)]
    handles += [m.register_forward_hook(after) for m in (*layers, *norms)]
    try:
        with watch:
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    several = Counter(id(given[norm]) for norm in norms if norm in given)
    takers = {id(given[norm]): norm for norm in norms if runs[norm] == 1 and several[id(given[norm])] == 1}
    found: list[tuple[str, Any, Any]] = []
    for layer in layers:
        output = given.get(layer)
        norm = takers.get(id(output)) if runs[layer] == 1 and id(output) not in watch.used else None
        found.append((names.get(norm, "") if norm is not None else "", layer, norm))
    return found


def _is_as_we_wrote(module: nn.Module) -> bool:
    """Whether a layer computes what its class here says: no subclass, hook or parametrization changes it."""
    own = all(
        function.__module__.partition(".")[0] == __name__.partition(".")[0]
        for name in ("forward", "transform", "_uncentered")
        if (function := getattr(type(module), name, None)) is not None
    )
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return own and "forward" not in vars(module) and not any(hooks) and not hasattr(module, "parametrizations")


_LOOKS = frozenset(
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda")
) | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point}
"""What asks a tensor about itself, and does not use its values."""


class _Uses(TorchFunctionMode):
    """Notes which of some tensors are used by anything but the norm that takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, Tensor] = {}
        self.inside: list[Tensor] = []
        """Inputs of norms that are running."""
        self.used: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _LOOKS:
            for value in (*args, *(kwargs or {}).values()):
                for part in value if isinstance(value, list | tuple) else (value,):
                    if id(part) in self.outputs and not any(part is x for x in self.inside):
                        self.used.add(id(part))
        return func(*args, **(kwargs or {}))
