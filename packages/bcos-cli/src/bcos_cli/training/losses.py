"""Losses by name: ours, those of plugins, and a user's own function."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bcos_cli.config import Train
from bcos_cli.data.index import ShardIndex
from bcos_cli.plugins import losses
from bcos_cli.spec import LossSpec
from bcos_core.errors import BcosError
from bcos_core.foreign import foreign_code
from bcos_core.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCELoss
from bcos_core.plugins import resolve

Probabilities = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class LossOptions:
    """What a loss is built for."""

    evaluation: bool = False
    """For measuring, not for training: plain targets, no smoothing, no weights."""
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    """(K,)"""


def make_loss(name: str, options: LossOptions | None = None) -> nn.Module:
    """Build the loss called `name`: a module that takes logits (N, K) and targets and returns their mean loss.

    Targets are class indices (N,), or (N, K) of probabilities where labels are mixed or several.

    Raises:
        BcosError: no such loss.
    """
    builder = resolve(_spec(name).builder)
    with foreign_code(f"the loss {name!r}", loading=False):
        loss = builder(options or LossOptions())
    if not isinstance(loss, nn.Module):
        raise BcosError(f"the loss {name!r} must return a torch.nn.Module, got {type(loss).__name__}")
    return loss


def probabilities_of(name: str) -> Probabilities:
    """What makes probabilities of the logits of a network that was trained with this loss."""
    return _spec(name).probabilities


def _spec(name: str) -> LossSpec:
    if ":" not in name:
        return losses()[name]
    if (here := str(Path.cwd())) not in sys.path:  # a program that is installed does not look where its user stands
        sys.path.insert(0, here)
    return LossSpec(name, name)


def binary_cross_entropy(options: LossOptions) -> nn.Module:
    """Build the loss ``bce``."""
    return BinaryCrossEntropyLoss(options.label_smoothing, pos_weight=options.class_weights)


def uniform_off_label_bce(options: LossOptions) -> nn.Module:
    """Build the loss ``uniform_off_label_bce``; plain binary cross-entropy where it measures."""
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
    """Averaged over images, also where classes have weights.

    torch divides by the weights of a batch: the sum of two halves of it would be another one than of the whole.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target).mean()


def class_weights(train: Train, index: ShardIndex, split: str) -> Tensor | None:
    """Weight of each class (K,) that a recipe asks for, if it asks for any.

    Raises:
        BcosError: not one for each class, or a class without images.
    """
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
    """Weight of each class, inverse to its share: ``N / (K · n_k)``.

    Raises:
        BcosError: a class without images.
    """
    if 0 in counts:
        raise BcosError(
            f"train.class_weights=balanced needs images of every class, class {counts.index(0)} has none; "
            "give the weights as a list"
        )
    return sum(counts) / (len(counts) * torch.tensor(counts, dtype=torch.float32))
