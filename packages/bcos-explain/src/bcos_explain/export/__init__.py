"""Networks with their explanation as one graph, for `torch.export` and ONNX.

The graph takes images and returns logits, the predicted class, and for that class the dynamic linear map, the
contribution map and the bias: what :func:`bcos_core.explain` gives, without this library, and without autograd.
"""

from bcos_explain.export.exporter import SavedExplainer, export_explainer, save_explainer
from bcos_explain.export.trace import OUTPUTS

__all__ = ["OUTPUTS", "SavedExplainer", "export_explainer", "save_explainer"]
