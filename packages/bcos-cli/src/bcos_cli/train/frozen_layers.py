"""Layers that stay as they are while the rest is trained."""

from fnmatch import fnmatchcase

from torch import nn

from bcos_cli import config
from bcos_cli.train.classifier import classifier_of
from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion


def freeze(model: nn.Module, options: config.Model) -> None:
    """Freeze the parameters that a recipe names.

    Raises:
        BcosError: a pattern that fits no parameter, or a network that does not say what its classifier is.
    """
    if options.train == "head":
        model.requires_grad_(False)
        _head(model).requires_grad_(True)
    names = dict(model.named_parameters())
    for pattern in options.freeze:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise BcosError(f"model.freeze={pattern!r} fits no parameter; {suggestion(pattern, names)}")
        for name in matching:
            names[name].requires_grad_(False)


def train_mode(model: nn.Module, options: config.Model) -> None:
    """Put a network into train mode, and what is frozen into eval mode, so that its statistics stay too."""
    model.train()
    if options.train == "head":
        model.eval()
        _head(model).train()
    for module in model.modules() if options.freeze else ():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _head(model: nn.Module) -> nn.Module:
    return classifier_of(model, "model.train=head", remedy="name what stays with model.freeze")[1]
