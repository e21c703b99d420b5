"""Losses by name: ours, those of plugins, and a user's own function."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcos_cli.config import Train
from bcos_cli.data.index import ShardIndex
from bcos_cli.plugins import losses
from bcos_core.errors import BcosError
from bcos_core.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCELoss
from bcos_core.plugin_guard import plugin_errors, plugin_guard
from bcos_core.plugins import checked, is_ours, resolve
from bcos_models.model_config import Probabilities


@dataclass(frozen=True)
class LossOptions:
    """What a loss is built for."""

    evaluation: bool = False
    """For evaluation, not for training: plain targets, no smoothing, no weights."""
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    """(K,)"""


def make_loss(name: str, options: LossOptions | None = None) -> nn.Module:
    """Build the loss called `name`: a module that takes logits (N, K) and targets and returns their mean loss.

    Targets are class indices (N,), or (N, K) of probabilities where labels are mixed or several. A name with a colon,
    ``module:function``, is code that is run: :func:`bcos_cli.config.load_recipe` refuses one that only a run names.

    Raises:
        BcosError: no such loss.
    """
    builder = _users_function(name) if ":" in name else losses().builder(name)
    what, ours = described_loss(name)
    with plugin_errors(what, ours=ours):
        return checked(builder(options or LossOptions()), nn.Module, what)


def described_loss(name: str) -> tuple[str, bool]:
    """What a loss is and whose, for messages, and whether it is ours."""
    if ":" in name:
        return f"the loss {name!r}", False
    return losses().described(name), is_ours(losses().owner(name))


def training_loss(train: Train, index: ShardIndex, split: str) -> nn.Module:
    """Build the loss of labels that a recipe trains with, on the images of `split`."""
    options = LossOptions(label_smoothing=train.label_smoothing, class_weights=class_weights(train, index, split))
    loss = make_loss(train.loss, options)
    return loss.double() if train.precision == "float64" else loss


def probabilities_of(name: str) -> Probabilities:
    """Return the function that turns logits of a network that was trained with this loss into probabilities."""
    return "sigmoid" if ":" in name else losses()[name].probabilities


def loss_of_scores(name: str) -> str:
    """Return the loss with which a network that was trained with `name` is scored: ``bce`` for a user's function.

    Scoring a network thus runs no code of whoever made it.
    """
    return "bce" if ":" in name else name


def _users_function(reference: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names, in a module that is installed or in the current folder."""
    # An installed program does not import from the current folder; ``sys.path`` stays as it is.
    top = reference.partition(":")[0].partition(".")[0]
    if top.isidentifier() and top not in sys.modules and find_spec(top) is None:
        spec = PathFinder.find_spec(top, [str(Path.cwd())])
        if spec is not None and spec.loader is not None:
            module = sys.modules[top] = module_from_spec(spec)
            try:
                with plugin_guard(f"the module {top!r}"):
                    spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[top]
                raise
    return resolve(reference)


def binary_cross_entropy(options: LossOptions) -> nn.Module:
    """Build the loss ``bce``."""
    return BinaryCrossEntropyLoss(options.label_smoothing, pos_weight=options.class_weights)


def uniform_off_label_bce(options: LossOptions) -> nn.Module:
    """Build the loss ``uniform_off_label_bce``; plain binary cross-entropy for evaluation."""
    if options.evaluation:
        return BinaryCrossEntropyLoss()
    if options.label_smoothing:
        raise BcosError(
            f"train.label_smoothing={options.label_smoothing:g} goes with bce or cross_entropy: "
            "uniform_off_label_bce smooths labels already"
        )
    return UniformOffLabelsBCELoss(pos_weight=options.class_weights)


def cross_entropy(options: LossOptions) -> nn.Module:
    """Build the loss ``cross_entropy``."""
    return _CrossEntropy(options.class_weights, reduction="none", label_smoothing=options.label_smoothing)


class _CrossEntropy(nn.CrossEntropyLoss):
    """Averaged over images, also where classes have weights."""

    # torch divides by the weights of a batch: a loss accumulated over two halves would differ from that of the whole
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target).mean()


def class_weights(train: Train, index: ShardIndex, split: str) -> Tensor | None:
    """Return the weight of each class (K,), if a recipe asks for weights; refuse a list of another length."""
    if train.class_weights == "none":
        return None
    if train.class_weights == "balanced":
        return balanced_weights(index.class_counts(split))
    if len(train.class_weights) != len(index.classes):
        raise BcosError(
            f"train.class_weights has {len(train.class_weights)} weights, the data have {len(index.classes)} classes"
        )
    return torch.tensor(train.class_weights)


def balanced_weights(counts: list[int]) -> Tensor:
    """Return weights of classes, inverse to their shares: ``N / (K · n_k)``; refuse a class without images."""
    if 0 in counts:
        raise BcosError(
            f"train.class_weights=balanced needs images of every class, class {counts.index(0)} has none; "
            "give the weights as a list"
        )
    return sum(counts) / (len(counts) * torch.tensor(counts, dtype=torch.float32))
