"""Layers of a network: found by name, and run with what they give."""

from typing import Any

from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.module_copy import shared_copy
from bcos_core.plugins import suggestion


def find_layer(model: nn.Module, layer: str | nn.Module) -> nn.Module:
    """Submodule of the model that `layer` names or is.

    Raises:
        BcosError: there is none; the message suggests one.
    """
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


def layer_outputs(model: nn.Module, layer: nn.Module, x: Tensor) -> tuple[list[Any], Any]:
    """Run the model: what `layer` gives each time it runs, in the graph, and what the model gives.

    Raises:
        BcosError: the layer does not run.
    """
    found: list[Any] = []

    def capture(_module: nn.Module, _args: object, output: object) -> object:
        found.append(output)
        return output.clone() if isinstance(output, Tensor) else output  # what follows may change it in place

    copied = shared_copy(model)  # a hook on the model itself would be run by other threads too
    copied.get_submodule(layer_name(model, layer)).register_forward_hook(capture)
    result = copied(x)
    if not found:
        raise BcosError(f"the layer {type(layer).__name__} did not run in the model's forward pass")
    return found, result
