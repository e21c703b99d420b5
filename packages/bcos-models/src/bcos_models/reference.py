"""State dicts of the reference implementation (the package ``bcos``, B-cos-v2) in our keys.

Imports no torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bcos_models.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHT = ".linear.weight"


@hookimpl
def bcos_models_convert_state_dict(
    name: str,  # noqa: ARG001 - reason: the hook's signature
    state_dict: "Mapping[str, Tensor]",
) -> "Mapping[str, Tensor] | None":
    """Rename ``conv.linear.weight`` to ``conv.weight`` and drop the means that uncentred norms never use.

    There an uncentred batch norm carries a ``running_mean`` that stays zero; ours has none.
    """
    if not any(key.endswith(_WEIGHT) for key in state_dict):
        return None
    return {
        key.removesuffix(_WEIGHT) + ".weight" if key.endswith(_WEIGHT) else key: tensor
        for key, tensor in state_dict.items()
        if not (key.endswith("running_mean") and not tensor.any())
    }
