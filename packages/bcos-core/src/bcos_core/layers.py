"""Layers of a network: found by name, run with what they give, and copied."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bcos_core.dependence import tensors
from bcos_core.errors import BcosError, first_line
from bcos_core.plugins import suggestion


def find_layer(model: nn.Module, layer: str | nn.Module) -> nn.Module:
    """Submodule of the model that `layer` names or is; if there is none, the message suggests one."""
    modules: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, str):
        if layer not in modules:
            raise BcosError(f"the model has no layer {layer!r}; {suggestion(layer, modules)}")
        return modules[layer]
    if not any(layer is module for module in model.modules()):
        raise BcosError(f"the given layer ({type(layer).__name__}) is not part of the model")
    return layer


def layer_name(model: nn.Module, layer: nn.Module) -> str:
    """Name of a submodule of the model, or of the model itself, which is empty."""
    name: str = next(name for name, module in model.named_modules() if module is layer)
    return name


def layer_outputs(
    model: nn.Module, layer: nn.Module, x: Tensor, call: Callable[[nn.Module, Tensor], Any] = nn.Module.__call__
) -> tuple[list[Any], Any]:
    """Call the model: what `layer`, which must run, gives each time, in the graph, and what the model gives."""
    found: list[Any] = []

    def capture(_module: nn.Module, _args: object, output: object) -> object:
        found.append(output)
        return output.clone() if isinstance(output, Tensor) else output  # what follows may change it in place

    copied = shared_copy(model)  # a hook on the model itself would be run by other threads too
    copied.get_submodule(layer_name(model, layer)).register_forward_hook(capture)
    result = call(copied, x)
    if not found:
        raise BcosError(f"the layer {type(layer).__name__} did not run in the model's forward pass")
    return found, result


def shared_copy(model: nn.Module) -> nn.Module:
    """Copy of the modules, with the same tensors: hooks put on it reach no other thread.

    A thread that iterates over the hooks of a module while another adds one to it fails.

    Raises:
        BcosError: a module keeps what cannot be copied.
    """
    return _copy(model, _tensors(model))


def full_copy(model: nn.Module) -> nn.Module:
    """Copy of the modules and of their parameters and buffers.

    Raises:
        BcosError: a module keeps what cannot be copied.
    """
    return _copy(model, [t for t in _tensors(model) if not t.is_leaf])  # which are computed anew


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers and what modules keep beside them: of their last forward pass, or of a parametrisation."""
    return tensors([value for module in model.modules() for value in vars(module).values()])


def _copy(model: nn.Module, shared: list[Tensor]) -> nn.Module:
    try:
        return copy.deepcopy(model, {id(t): t for t in shared})
    except (RuntimeError, TypeError) as reason:  # the latter of what cannot be copied, such as locks
        raise BcosError(
            f"the model cannot be copied ({first_line(reason)}), which this needs; keep what cannot be copied outside "
            "of its modules"
        ) from reason
