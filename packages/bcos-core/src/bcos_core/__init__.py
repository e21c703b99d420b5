"""The B-cos transform for PyTorch: layers, norms, losses and exact explanations.

Names are loaded on first use, so that ``import bcos_core`` (which every plugin module does, directly or not)
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bcos_core import functional as functional
    from bcos_core import losses as losses
    from bcos_core import norms as norms
    from bcos_core.attention import BcosSelfAttention as BcosSelfAttention
    from bcos_core.attention import SelfAttention as SelfAttention
    from bcos_core.conv import BcosConv1d as BcosConv1d
    from bcos_core.conv import BcosConv2d as BcosConv2d
    from bcos_core.conv import BcosConv3d as BcosConv3d
    from bcos_core.encoding import AddInverse as AddInverse
    from bcos_core.errors import BcosError as BcosError
    from bcos_core.explainer import explain as explain
    from bcos_core.explanation import Explanation as Explanation
    from bcos_core.linear import BcosLinear as BcosLinear
    from bcos_core.logits import LogitLayer as LogitLayer
    from bcos_core.mode import explanation_mode as explanation_mode
    from bcos_core.mode_state import freeze as freeze
    from bcos_core.mode_state import is_explaining as is_explaining
    from bcos_core.rules import AS_IT_IS as AS_IT_IS
    from bcos_core.rules import register_rules as register_rules

__version__ = "0.1.0"

_HOMES = {
    "AS_IT_IS": "rules",
    "AddInverse": "encoding",
    "BcosConv1d": "conv",
    "BcosConv2d": "conv",
    "BcosConv3d": "conv",
    "BcosError": "errors",
    "BcosLinear": "linear",
    "BcosSelfAttention": "attention",
    "Explanation": "explanation",
    "LogitLayer": "logits",
    "SelfAttention": "attention",
    "explain": "explainer",
    "explanation_mode": "mode",
    "freeze": "mode_state",
    "is_explaining": "mode_state",
    "register_rules": "rules",
}
_MODULES = ("functional", "losses", "norms")

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
