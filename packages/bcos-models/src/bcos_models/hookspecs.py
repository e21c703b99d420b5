"""The hooks through which packages add architectures. Imports no torch.

A plugin is a module with functions marked ``@hookimpl``, named in its package's ``pyproject.toml``:

.. code-block:: toml

    [project.entry-points.bcos_models]
    mine = "my_package.plugin"
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pluggy

from bcos_models.conversion import Conversion, ConversionOptions
from bcos_models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

PROJECT = "bcos_models"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bcos_models_specs() -> Iterable[ModelSpec]:
    """Return the descriptions of the models this plugin offers. Must be quick and import no torch."""
    raise NotImplementedError


@hookspec(firstresult=True)
def bcos_models_convert_state_dict(name: str, state_dict: "Mapping[str, Tensor]") -> "Mapping[str, Tensor] | None":
    """Translate a state dict of another package into the keys of the model `name`.

    Return None where the state dict is in no format this plugin knows; the first plugin with an answer
    decides.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def bcos_models_find_spec(name: str) -> ModelSpec | None:
    """Describe a model that is built from its name, such as ``timm/resnet18``, and therefore not listed.

    Return None for other names. Must be quick for those; may import torch for its own.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def bcos_models_convert_layer(layer: "nn.Module", options: ConversionOptions) -> Conversion | None:
    """Make a layer of a network that is being converted B-cos, as far as the options say.

    Return None for layers this plugin does not know; the first plugin with an answer decides, others' before
    ours. The layer belongs to a copy of the user's network: it may be changed and returned. What is inside the
    module that is returned is converted next, unless it is the layer itself and has no children.
    """
    raise NotImplementedError
