"""B-cos architecture families, found through a plugin registry. Importing this package imports no torch."""

import wrapt

from bcos_core.lazy import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__)

wrapt.register_post_import_hook("bcos_models.timm_models:register", "timm.models")
