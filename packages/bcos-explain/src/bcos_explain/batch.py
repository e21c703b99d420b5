"""Explaining a batch of images: targets, maps, W, receipts and remarks of any methods, in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcos_core import BcosError, Explanation
from bcos_core.mode import check_deterministic
from bcos_core.receipt import Receipt, by_origin, receipts
from bcos_core.targets import with_indices
from bcos_explain.explainers import Explainer, Remark, attribute, collect_remarks
from bcos_explain.explainers.contract import (
    LinearMapExplainer,
    Target,
    check_number,
    class_indices,
    without_rounding,
)
from bcos_explain.explainers.memory import in_batches
from bcos_explain.explainers.remarks import pass_on, remarks_about
from bcos_explain.registry import explainer_specs, get_explainer, is_registered, is_signed
from bcos_explain.render.picture import input_image
from bcos_explain.render.weight_image import WeightPicture


@dataclass(frozen=True)
class ClassTarget:
    """The question why this class; or, with `against`, why this class and not that one."""

    index: int
    against: int | None = None

    def __post_init__(self) -> None:
        if name := next((value for value in (self.index, self.against) if isinstance(value, str)), None):
            raise BcosError(
                f"a ClassTarget holds numbers of classes, got {name!r}; give model.class_names.index({name!r}), or, "
                f"without a contrast, names instead of it: explain_batch(model, images, [[{name!r}]])"
            )


Targets = Target | Sequence[ClassTarget] | Callable[[Tensor], Sequence[Sequence[ClassTarget]]]
Refusal = Callable[[str, BcosError], None]


@dataclass(frozen=True, kw_only=True)
class ClassExplanation:
    """One class of one image, explained by one method."""

    target: ClassTarget
    method: str
    exact: bool
    """Whether the map and a known bias sum to the logit, as the method's description says."""
    signed: bool = True
    """Whether the map is drawn in the colours of both signs: :func:`bcos_explain.registry.is_signed`."""
    logit: float
    """Logit of the target, less that of the class it is compared with."""
    probability: float
    """Probability of the target."""
    contributions: float
    """Sum of the map."""
    map: NDArray[np.float32] = field(repr=False)
    """(H, W), signed."""
    weight: NDArray[np.float32] | None = field(default=None, repr=False)
    """(C, H, W), the dynamic linear map W, of methods that have one."""
    picture: WeightPicture | None = field(default=None, repr=False)
    """What W looks like; of methods that have one, where `colours` was asked for."""
    receipt: Receipt | None = None
    """What the logit is made of; of methods that have W. Its bias is summed by origin."""
    bias_terms: Mapping[str, float] = field(default_factory=dict, repr=False)
    """The same bias by the names of the parameters."""
    remarks: tuple[Remark, ...] = ()
    """What the method says of its map."""


@dataclass(frozen=True, kw_only=True)
class ExplainedImage:
    """An image with its explanations, all on the CPU."""

    image: NDArray[np.uint8] = field(repr=False)
    """(H, W, 3), what the network sees, in RGB."""
    logits: Tensor = field(repr=False)
    """(K,), float32."""
    probabilities: Tensor = field(repr=False)
    """(K,)"""
    explanations: tuple[ClassExplanation, ...] = ()
    """By method, in the order given, and for each method by target."""

    @property
    def predicted(self) -> int:
        """The class with the largest logit."""
        return int(self.logits.argmax())

    @property
    def confidence(self) -> float:
        """Probability of the predicted class."""
        return float(self.probabilities[self.predicted])


def explain_batch(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    methods: Sequence[str] | Mapping[str, Explainer] = ("bcos",),
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
    probabilities: Callable[[Tensor], Tensor] = torch.sigmoid,
    probe: bool | None = None,
    keep_weight: bool = True,
    colours: bool = False,
    smooth: int | None = None,
    batch_size: int | None = None,
    on_refusal: Refusal | None = None,
) -> list[ExplainedImage]:
    """Explain a batch of images by one or several methods.

    A method that reads off W (``bcos``) explains all targets and contrasts of an image with one forward pass, which
    gives the logits too. For a contrast, such a method explains the difference of both logits; of any other, the
    difference of its two maps is taken.

    Args:
        model: in eval mode, from (N, C, H, W) to logits (N, K); where `images` are.
        images: (N, C', H, W), as `encode` takes them.
        targets: classes to explain: None for the predicted ones, one for all images, (N,) or (N, T) of them, by index
            or by name among the model's ``class_names``; the same :class:`ClassTarget` for all images, or a function
            from logits (N, K) to those of each image, of which there may be more for one image than for another.
        methods: names of explainers, or explainers by name. None at all gives logits and probabilities alone.
        encode: from images to the network's input (N, C, H, W); None for images that are encoded already.
        probabilities: from logits (N, K) to probabilities (N, K); a sigmoid for each class by default.
        probe: as for :func:`bcos_core.explain`.
        keep_weight: keep W of methods that have it.
        colours: compute the picture of W of methods that have it.
        smooth: side of the mean filter over its opacity, odd; None for one in proportion to the image.
        batch_size: images explained at once; None for all. Where memory runs out it is halved, and the halved size
            kept for the rest.
        on_refusal: called with a method and the reason why it cannot explain this network, and the method is left out
            of the result; None raises the reason.

    Raises:
        BcosError: an unknown method, a target out of range or unknown, or a network that a method cannot explain.

    >>> from bcos_core import BcosConv2d
    >>> model = nn.Sequential(BcosConv2d(6, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> first, second = explain_batch(model, torch.rand(2, 6, 8, 8), [ClassTarget(3), ClassTarget(3, against=5)])
    >>> [(e.target.index, e.target.against, e.exact, e.map.shape) for e in first.explanations]
    [(3, None, True, (8, 8)), (3, 5, True, (8, 8))]
    """
    explainers = methods if isinstance(methods, Mapping) else {name: get_explainer(name) for name in methods}
    if not _are_class_targets(targets):
        targets = with_indices(model, targets)  # type: ignore[arg-type] # reason: no ClassTarget is among them
    elif not targets:
        raise BcosError("there are no targets; give classes to explain, or None for those that are predicted")
    check_number(targets, len(images))
    check_deterministic(model)  # before a pass that would change running statistics
    batch = _Batch(model, explainers, encode, probabilities, probe, keep_weight, colours, smooth, on_refusal)

    def explain_part(part: slice) -> list[ExplainedImage]:
        chosen = targets[part] if isinstance(targets, Tensor) and targets.ndim else targets
        return batch.explain(images[part], _Scores(model, chosen))

    return [image for part in in_batches(explain_part, len(images), batch_size) for image in part]


def _are_class_targets(targets: Targets) -> bool:
    return isinstance(targets, list | tuple) and all(isinstance(target, ClassTarget) for target in targets)


class _Scores:
    """The explained scores (N, T) of logits (N, K).

    The first logits choose the targets. Later ones, of a probe at another point, are read at the same targets.
    """

    def __init__(self, model: nn.Module, targets: Targets) -> None:
        self._model = model
        self._targets = targets
        self.logits: Tensor | None = None

    def __call__(self, logits: Any) -> Tensor:
        if not isinstance(logits, Tensor):
            kind = type(logits).__name__
            raise BcosError(
                f"explain_batch needs logits (N, K), the model gives {kind}; wrap it in a module that picks them"
            )
        if self.logits is None:
            # Which classes are asked for is no part of the scores; seen by explanation mode, numbers read from logits
            # would make it run the network twice more, to be sure that no constant was made of them.
            with torch._C.DisableTorchFunction():
                self._choose(logits.detach().clone())
        scores: Tensor = logits.gather(1, self.classes)
        if not self.has_contrasts:
            return scores
        subtracted: Tensor = logits.gather(1, self.against.clamp_min(0)) * (self.against >= 0).to(logits.dtype)
        return scores - subtracted

    def _choose(self, logits: Tensor) -> None:
        if callable(self._targets) and not isinstance(self._targets, Tensor):
            self.targets = [list(row) for row in self._targets(logits)]
        elif isinstance(self._targets, Sequence):
            self.targets = [list(self._targets)] * len(logits)  # type: ignore[arg-type] # reason: other sequences are tensors
        else:
            indices = class_indices(self._model, logits, self._targets).reshape(len(logits), -1)
            self.targets = [[ClassTarget(k) for k in row] for row in indices.tolist()]
        if not all(self.targets):
            raise BcosError("there are no targets for some images; give at least one class for each")
        most = max(map(len, self.targets))
        padded = [[*row, *[row[-1]] * (most - len(row))] for row in self.targets]
        self.classes = class_indices(self._model, logits, torch.tensor([[t.index for t in row] for row in padded]))
        if others := [t.against for row in padded for t in row if t.against is not None]:
            class_indices(self._model, logits[:1], torch.tensor([others]))  # raises for one that is out of range
        against = torch.tensor([[-1 if t.against is None else t.against for t in row] for row in padded])
        self.against = against.to(logits.device)
        self.has_contrasts = bool((against >= 0).any())
        self.logits = logits


@dataclass(frozen=True)
class _Result:
    """What a method gives for a batch."""

    maps: Tensor
    """(N, T, H, W), float32 on the CPU."""
    remarks: Sequence[Remark]
    explanation: Explanation | None
    receipts: list[list[Receipt]] | None


@dataclass(frozen=True)
class _Batch:
    """The arguments of :func:`explain_batch` that all parts of a batch share."""

    model: nn.Module
    explainers: Mapping[str, Explainer]
    encode: Callable[[Tensor], Tensor] | None
    probabilities: Callable[[Tensor], Tensor]
    probe: bool | None
    keep_weight: bool
    colours: bool
    smooth: int | None
    on_refusal: Refusal | None

    @cached_property
    def registered(self) -> set[str]:
        """Methods of which descriptions tell; others may be called like them."""
        return {name for name, explainer in self.explainers.items() if is_registered(name, explainer)}

    @cached_property
    def exact(self) -> dict[str, bool]:
        """What descriptions say of the methods; one that is not registered says it itself."""
        described = {spec.name: spec.exact for spec in explainer_specs()}
        return {
            name: described[name] if name in self.registered else bool(getattr(e, "exact", False))
            for name, e in self.explainers.items()
        }

    def explain(self, images: Tensor, scores: _Scores) -> list[ExplainedImage]:
        x = images if self.encode is None else self.encode(images)
        if len(x) != len(images):
            raise BcosError(f"encode made {len(x)} inputs of {len(images)} images; it has to keep their number")
        results: dict[str, _Result] = {}
        # Methods that read off W come first: their forward pass gives the logits, which the others need.
        for name, explainer in sorted(self.explainers.items(), key=lambda e: not isinstance(e[1], LinearMapExplainer)):
            try:
                results[name] = self._result(explainer, x, scores)
            except BcosError as reason:
                if self.on_refusal is None:
                    raise
                self.on_refusal(name, reason)
        logits = self._logits(x, scores).float().cpu()
        probabilities = self.probabilities(logits)
        return [
            ExplainedImage(
                image=np.rint(input_image(image) * 255).astype(np.uint8),
                logits=logits[i],
                probabilities=probabilities[i],
                explanations=tuple(
                    self._explanation(name, results[name], i, t, target, logits[i], probabilities[i])
                    for name in self.explainers
                    if name in results
                    for t, target in enumerate(scores.targets[i])
                ),
            )
            for i, image in enumerate(images)
        ]

    def _logits(self, x: Tensor, scores: _Scores) -> Tensor:
        """Logits (N, K), of the forward pass of an explanation if there was one."""
        if scores.logits is None:
            with torch.inference_mode():
                logits = self.model(x)
            scores(logits.clone())
        assert scores.logits is not None
        return scores.logits

    def _result(self, explainer: Explainer, x: Tensor, scores: _Scores) -> _Result:
        if isinstance(explainer, LinearMapExplainer):
            with collect_remarks() as remarks:
                explanation = explainer.explanation(self.model, x, scores, probe=self.probe)
            return _Result(explanation.map.float().cpu(), remarks, explanation, receipts(explanation))
        self._logits(x, scores)
        with collect_remarks() as remarks:
            maps = _maps(explainer, self.model, x, scores)
        return _Result(maps.detach().float().cpu(), remarks, None, None)

    def _explanation(
        self, method: str, result: _Result, i: int, t: int, target: ClassTarget, logits: Tensor, probabilities: Tensor
    ) -> ClassExplanation:
        logit = float(logits[target.index])
        if target.against is not None:
            logit -= float(logits[target.against])
        receipt = weight = picture = None
        map = result.maps[i, t].numpy()
        terms: Mapping[str, float] = {}
        if result.explanation is not None and result.receipts is not None:
            terms = result.receipts[i][t].terms
            receipt = replace(result.receipts[i][t], terms=by_origin(terms, self.model))
            w = result.explanation.weight[i, t]
            weight = w.float().cpu().numpy() if self.keep_weight else None
            if self.colours:
                picture = WeightPicture.of(result.explanation.input[i], w, smooth=self.smooth).compact()
        return ClassExplanation(
            target=target,
            method=method,
            exact=self.exact[method],
            signed=method not in self.registered or is_signed(method, map),
            logit=logit,
            probability=float(probabilities[target.index]),
            contributions=float(result.maps[i, t].double().sum()),
            map=map,
            weight=weight,
            picture=picture,
            receipt=receipt,
            bias_terms=terms,
            remarks=tuple(dict.fromkeys(remarks_about(result.remarks, i, t))),
        )


def _maps(explainer: Explainer, model: nn.Module, x: Tensor, scores: _Scores) -> Tensor:
    """Maps (N, T, H, W); of contrasts the difference of the maps of both classes, with the remarks on either."""
    maps = attribute(explainer, model, x, scores.classes)
    if not scores.has_contrasts:
        return maps
    is_contrast = scores.against >= 0
    with collect_remarks() as remarks:
        others = attribute(explainer, model, x, scores.against.clamp_min(0)) * is_contrast[..., None, None]
    pass_on([r for r in remarks if r.image is None or r.target is None or bool(is_contrast[r.image, r.target])])
    return without_rounding(maps - others, maps.abs() + others.abs())
