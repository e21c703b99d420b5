"""The hooks through which packages add architectures. Imports no torch.

A plugin is a module with functions marked ``@hookimpl``, named in its package's ``pyproject.toml``:

.. code-block:: toml

    [project.entry-points.bcos_models]
    mine = "my_package.plugin"
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pluggy

from bcos_models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

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
