"""What all families share: named stages of features, a classifier, the logit layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from bcos_core import BcosConv2d, LogitLayer
from bcos_core.errors import BcosError
from bcos_models.checks import check_sizes, is_number

LogitBias = float | Literal["auto"] | None


@dataclass(frozen=True)
class Logits:
    """How the classifier's output becomes logits: ``x / temperature + bias``.

    ``bias="auto"`` is ``ln(p / (1-p))``, so that an untrained network gives every class the probability
    `prior` p; with p = 1/K, used where `prior` is None, that is ``-ln(K-1)`` (Böhle et al., TPAMI 2024,
    section 3.4). A network for several labels an image takes their mean frequency as `prior`.
    """

    bias: LogitBias = "auto"
    temperature: float | None = None
    prior: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("logit_temperature", self.temperature), ("prior", self.prior)):
            if value is not None and not is_number(value):
                raise BcosError(f"{name} must be a number or None, got {value!r}")
        if self.bias is not None and self.bias != "auto" and not is_number(self.bias):
            raise BcosError(f"logit_bias must be a number, 'auto' or None, got {self.bias!r}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise BcosError(f"prior must be between 0 and 1, got {self.prior}")
        if self.prior is not None and self.bias != "auto":
            raise BcosError(f"give prior or logit_bias, not both; got {self.prior} and {self.bias}")

    def layer(self, num_classes: int) -> LogitLayer:
        """Build the layer for `num_classes` outputs."""
        bias = self.bias
        if bias == "auto":
            p = 1 / num_classes if self.prior is None else self.prior
            bias = math.log(p / (1 - p)) if p < 1 else None
        return LogitLayer(self.temperature, bias)


@dataclass(frozen=True)
class Stage:
    """Modules that run one after the other, and what comes out of the last of them."""

    modules: tuple[str, ...]
    channels: int
    reduction: int
    """Pixels of the input for one position of the output, in each direction."""


class ImageClassifier(nn.Module):
    """Stages → features; features → votes of every position → their mean → logit layer.

    A family registers its modules, and says with names in which order they run. The classifier stands
    *before* the pooling (Böhle et al., TPAMI 2024, section 3.4): every position votes for the classes.

    Args:
        stages: in the order of their running; after each of them features can be taken.
        norm: modules between the last stage and the features.
        pre_logits: modules between the features and the classifier.
        classifier: name of the last layer with parameters, which :meth:`reset_classifier` replaces.
        make_classifier: builds that layer for a number of classes.
        num_classes: K.
        logits: bias and temperature of the logits.
        head_hidden_size: channels of the classifier's input; None for those of the last stage.

    Shapes: (N, C, H, W) → (N, K).
    """

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        norm: tuple[str, ...] = (),
        pre_logits: tuple[str, ...] = (),
        classifier: str,
        make_classifier: Callable[[int], nn.Module],
        num_classes: int,
        logits: Logits,
        head_hidden_size: int | None = None,
    ) -> None:
        check_sizes(num_classes=num_classes)
        super().__init__()
        self.stages = list(stages)
        self.num_classes = num_classes
        self.num_features = stages[-1].channels
        self.head_hidden_size = head_hidden_size or self.num_features
        self.feature_info = [
            {"num_chs": s.channels, "reduction": s.reduction, "module": s.modules[-1]} for s in self.stages
        ]
        self.classifier_name = classifier
        self._norm, self._pre_logits = norm, pre_logits
        self._make_classifier = make_classifier
        self._logits = logits
        self.logit_layer: nn.Module = logits.layer(num_classes)
        self.is_frozen = False

    def initialise(self, part: nn.Module) -> None:
        """Draw the weights of all convolutions in `part`; biases are zero."""
        for module in part.modules():
            if isinstance(module, nn.Conv2d | BcosConv2d):
                self.draw(module.weight)
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def draw(self, weight: Tensor) -> None:
        """Initialise one convolution, as the family's paper does."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Features, (N, num_features, h, w); of transformers (N, tokens, num_features)."""
        for stage in self.stages:
            x = self._run(stage.modules, x)
        return self._run(self._norm, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features → logits (N, K); with `pre_logits` the classifier's input, averaged over positions."""
        x = self._run(self._pre_logits, x)
        if not pre_logits:
            x = self.get_classifier()(x)
        if x.ndim == 4:
            x = x.mean((2, 3))
        return x if pre_logits else self.logit_layer(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer with parameters."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the automatic logit bias with it.

        Args:
            num_classes: K of the new one; 0 for none, so that the network returns averaged features.
            global_pool: ``"avg"`` or None; the average is the only pooling that B-cos networks have.

        Raises:
            BcosError: a negative number of classes or another pooling.
        """
        if num_classes < 0:
            raise BcosError(f"num_classes must be at least 0, got {num_classes}")
        if global_pool not in (None, "avg"):
            raise BcosError(f"global_pool must be 'avg', got {global_pool!r}: the votes of all positions are averaged")
        like = next(self.parameters())
        new = self._make_classifier(num_classes) if num_classes else nn.Identity()
        self.initialise(new)
        self.set_submodule(self.classifier_name, new.to(like.device, like.dtype).train(self.training))
        self.logit_layer = self._logits.layer(num_classes) if num_classes else nn.Identity()
        self.num_classes = num_classes

    def freeze(self) -> None:
        """Train the classifier alone: nothing else gets gradients, and norms keep their running statistics."""
        self.is_frozen = True
        self.requires_grad_(False)
        self.get_classifier().requires_grad_(True)
        self.train(self.training)

    def unfreeze(self) -> None:
        """Train all parameters."""
        self.is_frozen = False
        self.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; in a frozen network only the classifier's."""
        super().train(mode)
        if mode and self.is_frozen:
            for child in self.children():
                child.eval()
            self.get_classifier().train()
        return self

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps after the stages, as timm's models give them.

        Args:
            x: (N, C, H, W).
            indices: of stages; a number for the last ones, None for all.
            norm: apply the norm between the last stage and the features to that stage's map, in families that
                have one (DenseNet).
            stop_early: do not run the stages after the last one that is asked for; the features are then that one's.
            output_fmt: ``"NCHW"``.
            intermediates_only: return the maps alone.

        Returns:
            The features and a list of maps (N, channels, h, w), or the list alone.
        """
        if output_fmt != "NCHW":
            raise BcosError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken = self._chosen(indices)
        image, maps = x, []
        final = len(self.stages) - 1
        for i, stage in enumerate(self.stages[: max(taken) + 1] if stop_early else self.stages):
            x = self._run(stage.modules, x)
            normed = self._run(self._norm, x) if i == final else x
            if i in taken:
                maps.append(self.as_map(normed if norm else x, image))
            x = normed
        return maps if intermediates_only else (x, maps)

    def _chosen(self, indices: int | list[int] | None) -> list[int]:
        from timm.models._features import feature_take_indices

        try:
            taken: list[int] = feature_take_indices(len(self.stages), indices)[0]
        except AssertionError as reason:
            raise BcosError(f"the network has {len(self.stages)} stages, got indices={indices}") from reason
        return taken

    def as_map(self, features: Tensor, _image: Tensor) -> Tensor:
        """Features of a stage as (N, channels, h, w)."""
        return features

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what :meth:`forward_intermediates` does not need for these stages; returns their indices."""
        taken = self._chosen(indices)
        last = max(taken)
        unused = [name for stage in self.stages[last + 1 :] for name in stage.modules]
        self.stages = self.stages[: last + 1]
        if prune_norm:
            unused += self._norm
        if prune_head:
            unused += self._pre_logits
            self.reset_classifier(0)
        for name in unused:
            self.set_submodule(name, nn.Identity())
        return taken

    def _run(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def remove_classifier(model: nn.Module, name: str) -> None:
    """Let the model called `name`, which must be of a family of ours, return averaged features."""
    if not isinstance(model, ImageClassifier):
        raise BcosError(f"the model {name!r} has no classifier that could be left out")
    model.reset_classifier(0)
