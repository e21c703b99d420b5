"""State dicts of the reference implementation (the package ``bcos``, B-cos-v2) in our keys.

Imports no torch.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bcos_models.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHT = ".linear.weight"
_TRANSFORMER = "transformer.encoder_0."

# of transformers: pattern of a key, and what it becomes
_RENAMED = [
    (r"^0\.", ""),  # followed there by the logit layer
    (r"^to_patch_embedding\.conv_stem\.", "embed.stem."),
    (r"^to_patch_embedding\.linear\.", "embed.proj."),
    (r"^transformer\.encoder_(\d+)\.", r"blocks.\1."),
    (r"\.attn\.norm\.", ".norm1."),
    (r"\.attn\.to_(qkv|out)\.", r".attn.\1."),
    (r"\.ff\.net\.norm\.", ".norm2."),
    (r"\.ff\.net\.linear([12])\.", r".mlp.fc\1."),
    (r"^linear_head\.norm\.", "norm."),
    (r"^linear_head\.linear\.", "head."),
]


@hookimpl
def bcos_models_convert_state_dict(
    name: str,  # noqa: ARG001 - reason: the hook's signature
    state_dict: "Mapping[str, Tensor]",
) -> "Mapping[str, Tensor] | None":
    """Rename ``conv.linear.weight`` to ``conv.weight``, and drop the means that uncentred norms never use.

    There an uncentred batch norm carries a ``running_mean`` that stays zero; ours has none. Transformers have
    other names altogether.
    """
    if any(_TRANSFORMER in key for key in state_dict):
        state_dict = {_transformer_key(key): tensor for key, tensor in state_dict.items()}
    elif not any(key.endswith(_WEIGHT) for key in state_dict):
        return None
    return {
        key.removesuffix(_WEIGHT) + ".weight" if key.endswith(_WEIGHT) else key: tensor
        for key, tensor in state_dict.items()
        if not (key.endswith("running_mean") and not tensor.any())
    }


def _transformer_key(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key
