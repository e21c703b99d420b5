"""Networks of any family become B-cos networks."""

import copy
import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core import AddInverse, LogitLayer, explain
from bcos_core.completeness import largest_difference
from bcos_core.errors import BcosError, first_line
from bcos_core.plugins import suggestion
from bcos_models.classifier import LogitBias, Logits
from bcos_models.conversion import ConversionOptions, ConversionReport, Decisions, Input, Step
from bcos_models.convert.annealing import recalibrate_norms
from bcos_models.convert.layers import without_blur
from bcos_models.convert.least_squares import fit_kernels
from bcos_models.convert.network import (
    BcosifiedNetwork,
    Positions,
    Standardize,
    StandardizedImage,
    WithInverse,
    position_classifier,
    take_inverse,
    widen,
)
from bcos_models.convert.observation import observe
from bcos_models.convert.walk import GATE, IDLE, Walk
from bcos_models.spec import Antialias
from bcos_models.timm_models import input_of

_TOLERANCE = 1e-3
"""Largest error of a conversion with everything kept, as a share of the logits' size."""
_MEASURED = 16
"""Images of those that kernels are fitted to, on which the image share is measured."""
_BATCH = 64
"""Images with which statistics of norms are measured at once."""


def bcosify(
    model: nn.Module,
    *,
    b: float = 2.0,
    unit_norm: bool = False,
    keep_bias: bool = False,
    keep_norms: bool = False,
    keep_activations: bool = True,
    keep_pooling: bool = False,
    input: Input = "6ch",
    skip: Sequence[str] = (),
    convert_depthwise: bool = False,
    antialias: Antialias = "none",
    logit_bias: LogitBias = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | tuple[int, int] | None = None,
    fit_to: Tensor | None = None,
) -> BcosifiedNetwork:
    """Convert a trained image classifier into a B-cos network.

    Convolutions and linear layers become B-cos layers with the weights they have, batch norms uncentred, max
    pooling average pooling; biases go; a linear classifier moves before the global average pooling; the input has
    inverse channels. Query, key and value stay linear, and so does what computes gates. With ``b=1`` and all
    ``keep_`` flags the logits are those of `model`. Fine-tune with the rest.

    Args:
        model: of timm, torchvision or elsewhere, with output (N, K); it is not changed.
        b: exponent B ≥ 1.
        unit_norm: normalise weights, as B-cos networks do that are trained from scratch.
        keep_bias: keep biases; the mean of batch norms is then folded into theirs.
        keep_norms: leave norms as they are.
        keep_activations: keep ReLU, GELU and the like.
        keep_pooling: keep max pooling.
        input: ``"6ch"`` for (N, 6, H, W) in [0, 1] with inverse channels; ``"3ch"`` for what `model` took.
        skip: names of modules that stay, or patterns such as ``"layer4.*"``.
        convert_depthwise: make depthwise convolutions B-cos too, which else stay linear.
        antialias: ``"blurpool"`` low-pass filters what strided convolutions take, and in the place of max pooling, so
            that strides leave no grid in explanations.
        logit_bias: added to the logits; ``"auto"`` is ``-ln(K-1)`` where biases go, and none where they are kept.
        mean: that was subtracted from images in [0, 1] before `model` took them, for each channel; None for what a
            model of timm or ours says of itself, else ImageNet's; so is `std`.
        image_size: side, or height and width, of the image that the conversion is tried with; None likewise, else 224.
        fit_to: a few hundred images (N, C, H, W) in [0, 1] such as the network will see, without labels; kernels are
            then fitted, layer by layer, to what the original gives, so that they make up for the biases and means that
            are gone (:func:`~bcos_models.convert.least_squares.fit_kernels`). None leaves kernels as they are.

    Returns:
        The network in the mode of `model`; its attribute ``conversion`` reports what was replaced, what stays, and why.

    Raises:
        BcosError: invalid options, a model that is not a classifier or cannot be explained, or a conversion
            that loses a weight or would not compute the same with everything kept.

    >>> import torchvision
    >>> original = torchvision.models.resnet18(num_classes=10)
    >>> network = bcosify(original, image_size=64)
    >>> network(torch.rand(2, 6, 64, 64)).shape
    torch.Size([2, 10])

    Source: Arya et al., "B-cosification: Transforming Deep Neural Networks to be Inherently Interpretable",
    NeurIPS 2024.
    """
    skipped = (skip,) if isinstance(skip, str) else tuple(skip)
    options = ConversionOptions(
        b,
        unit_norm,
        keep_bias,
        keep_norms,
        keep_activations,
        keep_pooling,
        input,
        skipped,
        convert_depthwise,
        antialias,
    )
    if not isinstance(model, nn.Module):
        raise BcosError(f"bcosify needs a torch.nn.Module, got {type(model).__name__}")
    own_input = input_of(model)
    mean, std = mean or own_input.mean, std or own_input.std
    check_statistics(mean, std)
    modes = {name: module.training for name, module in model.named_modules()}
    original = _copied(model).eval()
    _check_skipped(original, options)
    exact = copy.deepcopy(original).double()  # in which rounding cannot pass for a mistake
    image = _example(original, len(mean), image_size or own_input.size)
    m, s = (image.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    inputs = (image - m) / s
    try:
        observed = observe(exact, inputs)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as reason:
        raise BcosError(
            f"cannot convert a network that does not run on images of {tuple(inputs.shape[1:])} in float64: "
            f"{first_line(reason)}; give its image_size, and mean and std for each of its channels"
        ) from reason
    classes = observed.logits.shape[1]
    converter = _Converter(options, observed.decisions, classes, mean, std, logit_bias, observed.called)
    network = _converted(original, exact, converter, image, inputs, observed.logits)
    del exact
    if fit_to is None:
        _measure(network.eval(), encoded(image, options.input, inputs))
    else:
        fit_conversion(network.eval(), original, fit_to, mean=mean, std=std)
    for name, module in network.network.named_modules():
        module.training = modes.get(name, model.training)
    network.training = model.training
    return network


def repeat_conversion(
    model: nn.Module,
    decisions: Decisions,
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    logit_bias: LogitBias = "auto",
    **options: Any,
) -> BcosifiedNetwork:
    """Convert a network as :func:`bcosify` has converted another of the same architecture, without running it.

    The arguments are those of :func:`bcosify`; the classifier has `num_classes` outputs, and the result shares the
    weights of `model`, which is not to be used any more.
    """
    options["skip"] = tuple(options.get("skip", ()))
    return _Converter(ConversionOptions(**options), decisions, num_classes, mean, std, logit_bias).convert(model)


def _converted(
    original: nn.Module, exact: nn.Module, converter: "_Converter", image: Tensor, inputs: Tensor, logits: Tensor
) -> BcosifiedNetwork:
    """Convert as thoroughly as possible, provided that with everything kept the network computes the same.

    The first layer cannot be widened where something else sees the image too, nor the classifier moved where
    something else uses the pooling, or reshapes what it gives.
    """
    options, decisions = converter.options, converter.decisions
    widened = [True, False] if options.input == "6ch" and decisions.image_layers else [False]
    ends = (decisions.classifier, decisions.pool)
    movable = None not in ends and not any(options.skips(str(name)) for name in ends)
    problem = None
    for moved in [True, False] if movable else [False]:
        for widen_first in widened:
            candidate = replace(converter, decisions=replace(decisions, widened=widen_first, moved=moved))
            try:
                problem = candidate.difference(exact, image, inputs, logits)
            except (RuntimeError, BcosError) as reason:  # of shapes
                problem = first_line(reason)
            if problem is None:
                return candidate.convert(copy.deepcopy(original))
    raise BcosError(f"the conversion does not reproduce the network with B = 1 and everything kept: {problem}")


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as reason:
        raise BcosError(
            f"cannot copy the network: {first_line(reason)}; call torch.nn.utils.remove_weight_norm on it first, "
            "or use torch.nn.utils.parametrizations"
        ) from reason


def _check_skipped(network: nn.Module, options: ConversionOptions) -> None:
    """Refuse patterns that match no module."""
    names = [name for name, _ in network.named_modules() if name]
    for pattern in options.skip:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BcosError(f"skip names {pattern!r}, and the network has no such module; {suggestion(pattern, names)}")


@dataclass(frozen=True)
class _Converter:
    """Converts one network, any number of times."""

    options: ConversionOptions
    decisions: Decisions
    classes: int
    mean: Sequence[float]
    std: Sequence[float]
    logit_bias: LogitBias
    called: Collection[str] | None = None
    """Modules that ran; None where the decisions say which did not."""

    def difference(self, original: nn.Module, image: Tensor, inputs: Tensor, logits: Tensor) -> str | None:
        """Convert with everything kept and say how the logits differ; None if they do not."""
        kept = ConversionOptions(b=1.0, keep_bias=True, keep_norms=True, keep_activations=True, keep_pooling=True)
        options = replace(kept, input=self.options.input, skip=self.options.skip)
        exact = replace(self, options=options, logit_bias=None).convert(copy.deepcopy(original))
        with torch.no_grad():
            ours = exact.eval()(encoded(image, options.input, inputs))
        error = largest_difference(ours, logits)
        return None if error <= _TOLERANCE else f"the logits differ by {error:.1e} of their size"

    def convert(self, network: nn.Module) -> BcosifiedNetwork:
        """Convert the network in place."""
        options, decisions, classes = self.options, self.decisions, self.classes
        if decisions.rules == 1:
            options = replace(options, convert_depthwise=True)
        report = ConversionReport(options)
        moved = decisions.classifier if decisions.moved else None
        if moved is not None:
            self._move_classifier(network, report)
        Walk(options, decisions, self.called, moved, report).convert_children(network)
        stays = {reason: tuple(s.name for s in report.steps if s.reason == reason) for reason in (GATE, IDLE)}
        encoder = self._encoder(network, report)
        kept = options.keep_bias and self.logit_bias == "auto"
        layer = LogitLayer() if kept else Logits(self.logit_bias).layer(classes)
        if layer.logit_bias is not None:
            report.notes.append(f"logits get the bias {layer.logit_bias:.4g}")
        self._note_what_stays(report, moved)
        decisions = replace(decisions, gates=stays[GATE], idle=stays[IDLE])
        return BcosifiedNetwork(encoder, network, layer, classes, report, decisions)

    def _move_classifier(self, network: nn.Module, report: ConversionReport) -> None:
        name, pool = self.decisions.classifier, self.decisions.pool
        assert name is not None
        assert pool is not None
        old: Any = network.get_submodule(name)
        new = position_classifier(old, self.options)
        before = network.get_submodule(pool)
        network.set_submodule(pool, Positions(self.decisions.channels_last))
        network.set_submodule(name, new)
        dropped = () if self.options.keep_bias or old.bias is None else ("bias",)
        what = "1×1 B-cos convolution before the pooling"
        report.steps.append(Step(name, type(old).__name__, type(new).__name__, what, True, dropped))
        report.steps.append(Step(pool, type(before).__name__, "Positions", "the classifier averages its votes", True))

    def _encoder(self, network: nn.Module, report: ConversionReport) -> nn.Module:
        if self.options.input == "3ch":
            report.notes.append("input: what the network saw before")
            return nn.Identity()
        if not self.decisions.widened:
            report.notes.append(
                "input: 6 channels, put together to what the network saw, because its first layer is not "
                "a convolution of the image alone"
            )
            return StandardizedImage(self.mean, self.std)
        first = ", ".join(self.decisions.image_layers)
        if self.decisions.rules == 1:
            for name in self.decisions.image_layers:
                widen(without_blur(network.get_submodule(name)))
            report.notes.append(f"input: 6 channels, standardised, which {first} takes as [w, -w]/2")
            return Standardize(self.mean, self.std)
        for name in self.decisions.image_layers:
            take_inverse(without_blur(network.get_submodule(name)), self.mean, self.std)
        report.notes.append(f"input: 6 channels in [0, 1]; {first} holds their mean and deviation, without a constant")
        return WithInverse(len(self.mean))

    def _note_what_stays(self, report: ConversionReport, moved: str | None) -> None:
        if moved is None and self.decisions.classifier is None:
            report.notes.append("classifier: stays where it is; no linear layer gives the logits by itself")
        elif moved is None and self.decisions.pool is None:
            report.notes.append(
                f"classifier: {self.decisions.classifier} stays where it is; "
                "no global average pooling of feature maps comes right before it"
            )
        elif moved is None:
            report.notes.append(
                f"classifier: {self.decisions.classifier} stays behind the pooling: one of them is to be "
                "skipped, or something else uses the pooling or its output"
            )
        functions = self.decisions.functions
        for name in sorted(functions):
            if not (self.options.keep_pooling if "pool" in name else self.options.keep_activations):
                report.notes.append(f"{name} is called as a function ({functions[name]} times) and stays")


def encoded(image: Tensor, input: Input, inputs: Tensor) -> Tensor:
    """Return the converted network's input for an image in [0, 1] whose standardised form is `inputs`."""
    return AddInverse()(image) if input == "6ch" else inputs


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a mean and standard deviation of different lengths, empty ones, and a deviation that is not positive."""
    if not mean or len(mean) != len(std) or not all(s > 0 for s in std):
        raise BcosError(
            f"mean and std must name one number for each channel, std positive; got {list(mean)} and {list(std)}"
        )


def _example(network: nn.Module, channels: int, size: int | tuple[int, int]) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((2, channels, height, width), generator=generator, dtype=torch.float64)
    return image.to(like.device)


def fit_conversion(
    network: BcosifiedNetwork, original: nn.Module, images: Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> int:
    """Fit the kernels of a converted network, and bring norms and report up to date; as :func:`fit_kernels`.

    Kernels are fitted with B = 1. With a larger B layers give less, and their norms must know: a deep network's logits
    would be 0.
    """
    count = fit_kernels(network, original, images, mean=mean, std=std)
    options = network.conversion.options
    network.conversion.notes.append(f"{count} layers were fitted to {len(images):,} images")
    m, s = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    like = next(network.parameters())
    x = encoded(images, options.input, (images - m) / s).to(like.device, like.dtype)
    if count and options.b != 1 and not options.keep_norms:
        recalibrate_norms(network, x.tensor_split(math.ceil(len(x) / _BATCH)))
    _measure(network, x[:_MEASURED])
    network.conversion.measured_on = f"{len(x[:_MEASURED])} of these images"
    return count


def _measure(network: BcosifiedNetwork, x: Tensor) -> None:
    """Write into the network's report what it still adds, and how much of the logits its maps account for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        like = next(network.parameters())
        e = explain(network, x.to(like.device, like.dtype if like.is_floating_point() else x.dtype))
    size = e.score.abs() + e.contributions.abs().flatten(1).sum(1)
    report = network.conversion
    report.constants = {name: float((share.abs() / size).mean()) for name, share in e.bias_terms.items()}
    image_share, cancellation = float(e.image_share.nanmean()), float(e.cancellation.nanmean())
    report.image_share = None if math.isnan(image_share) else image_share
    report.cancellation = None if math.isnan(cancellation) else cancellation
