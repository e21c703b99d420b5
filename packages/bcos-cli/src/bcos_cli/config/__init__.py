"""Recipes: YAML files that say all a training run depends on, validated by pydantic. Imports no torch.

Names are imported when they are used: every command imports this package, and pydantic takes a while.
"""

from bcos_core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
