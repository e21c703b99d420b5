"""The B-cos transform for PyTorch: layers, norms, losses and exact explanations.

Names are loaded on first use, so that ``import bcos_core`` (which every plugin module does, directly or not)
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bcos_core import functional, losses, norms
    from bcos_core.attention import BcosSelfAttention, SelfAttention
    from bcos_core.conv import BcosConv1d, BcosConv2d, BcosConv3d
    from bcos_core.encoding import AddInverse
    from bcos_core.errors import BcosError
    from bcos_core.explainer import explain
    from bcos_core.explanation import Explanation
    from bcos_core.linear import BcosLinear
    from bcos_core.logits import LogitLayer
    from bcos_core.mode import explanation_mode
    from bcos_core.mode_state import freeze, is_explaining
    from bcos_core.rules import AS_IT_IS, register_rules

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

__all__ = [
    "AS_IT_IS",
    "AddInverse",
    "BcosConv1d",
    "BcosConv2d",
    "BcosConv3d",
    "BcosError",
    "BcosLinear",
    "BcosSelfAttention",
    "Explanation",
    "LogitLayer",
    "SelfAttention",
    "explain",
    "explanation_mode",
    "freeze",
    "functional",
    "is_explaining",
    "losses",
    "norms",
    "register_rules",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
