"""The B-cos transform for PyTorch: layers, norms, losses and exact explanations.

Names are loaded on first use, so that ``import bcos_core`` (which every plugin module does, directly or not)
costs nothing.
"""

from bcos_core.lazy import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__)
