"""The optimizer of a recipe, one of timm's."""

from collections.abc import Iterator
from typing import Any

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import nn
from torch.optim import Optimizer

from bcos_cli import config
from bcos_cli.train.classifier import classifier_of
from bcos_core.errors import BcosError


def make_optimizer(model: nn.Module, options: config.Optimizer) -> Optimizer:
    """Return timm's optimizer of that name; weight decay leaves out biases and norms.

    Raises:
        BcosError: nothing to train.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise BcosError("all parameters are frozen; leave some out of model.freeze")
    more: dict[str, Any] = {"momentum": options.momentum} if options.name == "sgd" else {}
    name = "momentum" if options.name == "sgd" else options.name  # timm's sgd is Nesterov's
    if options.layer_decay < 1:
        model = _LayerGroups(model)
        more["layer_decay"] = options.layer_decay
    optimizer: Optimizer = create_optimizer_v2(
        model, opt=name, lr=options.lr, weight_decay=options.weight_decay, **more
    )
    return optimizer


class _LayerGroups(nn.Module):
    """A network that tells timm where its classifier is, so that it can group the layers below."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters_of = model
        self.pretrained_cfg = {"classifier": classifier_of(model, "optimizer.layer_decay")[0]}

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of the network, under its own names."""
        return self._parameters_of.named_parameters(*arguments, **options)
