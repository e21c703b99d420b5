"""The classifier of a network: its last layer, which is replaced for other classes and trained by ``--head-only``."""

from torch import nn

from bcos_core.errors import BcosError


def classifier_of(model: nn.Module, needed_by: str, *, remedy: str = "leave it out") -> tuple[str, nn.Module]:
    """Return the name and the module of the classifier.

    Raises:
        BcosError: the network has no ``get_classifier()`` that says what it is.
    """
    find = getattr(model, "get_classifier", None)
    found = find() if callable(find) else None
    if isinstance(found, nn.Module):
        return next(name for name, module in model.named_modules() if module is found), found
    raise BcosError(f"{needed_by} needs a network with get_classifier(), which this one does not have; {remedy}")
