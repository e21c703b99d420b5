"""What each step of a conversion costs, before any training."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core import explain
from bcos_core.errors import BcosError
from bcos_models.conversion import ConversionOptions
from bcos_models.convert.annealing import recalibrate_norms, set_exponent
from bcos_models.convert.bcosify import bcosify, encoded
from bcos_models.convert.network import BcosifiedNetwork
from bcos_models.convert.rules import CONVERTED, MAX_POOLS

_BATCH = 64
_EXPLAINED = 16


@dataclass(frozen=True)
class ProbeStep:
    """A network on its way from the original to the B-cos network."""

    name: str
    """What was changed last."""
    agreement: float
    """Share of the images whose class is the original's."""
    accuracy: float | None
    """Share of the images whose class is their label; None without labels."""
    spread: float
    """Deviation of the logits over classes, mean over images, as a share of the original's."""
    image_share: float
    """Median :attr:`bcos_core.Explanation.image_share`."""


def probe_conversion(
    original: nn.Module,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    fitted: BcosifiedNetwork | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    **options: Any,
) -> Iterator[ProbeStep]:
    """Convert step by step, and tell after each how far the network is from the original.

    After each step the statistics of norms are measured anew on `images`.

    Args:
        original: in eval mode; not changed.
        images: (N, C, H, W) in [0, 1], as the network will see them.
        labels: (N,), numbers of the original's outputs.
        fitted: the network that was converted with the same options, its kernels fitted to other images
            (:func:`~bcos_models.convert.least_squares.fit_kernels`); not changed. None where they are not.
        mean: that the original's images are standardised with; so is `std`.
        options: of :func:`bcosify`.

    Raises:
        BcosError: fewer than two images; and as :func:`bcosify`.
    """
    if len(images) < 2:
        raise BcosError(f"a conversion is tried with at least two images, got {len(images)}")
    common: dict[str, Any] = {"mean": mean, "std": std, "image_size": tuple(images.shape[-2:])}
    given: dict[str, Any] = {k: tuple(v) if k == "skip" else v for k, v in options.items() if k != "logit_bias"}
    wanted = ConversionOptions(**given)
    probe = _Probe(original, images, labels, mean, std)
    yield probe.step("as it is", original, probe.plain)
    pools = any(isinstance(module, MAX_POOLS) for module in original.modules())
    steps: list[tuple[str, dict[str, Any], bool]] = [
        ("average pooling", {"keep_pooling": wanted.keep_pooling}, pools and not wanted.keep_pooling),
        ("low-pass filters", {"antialias": wanted.antialias}, wanted.antialias != "none"),
        ("activations removed", {"keep_activations": wanted.keep_activations}, not wanted.keep_activations),
        ("norms uncentred", {"keep_norms": wanted.keep_norms}, not wanted.keep_norms),
        ("biases removed", {"keep_bias": wanted.keep_bias}, not wanted.keep_bias),
        ("unit norm", {"unit_norm": wanted.unit_norm}, wanted.unit_norm),
    ]
    kept: dict[str, Any] = {"keep_bias": True, "keep_norms": True, "keep_activations": True, "keep_pooling": True}
    now = replace(wanted, b=1.0, unit_norm=False, antialias="none", **kept)
    network = None
    for name, change, matters in steps:
        now = replace(now, **change)
        if matters:
            network = bcosify(original, **common, **vars(now), logit_bias=options.get("logit_bias", "auto"))
            yield probe.step(name, network)
    if fitted is not None:
        network = copy.deepcopy(fitted).eval()
        if wanted.b != 1:
            set_exponent(network, 1.0)
        yield probe.step("kernels fitted", network)
    if network is None:
        network = bcosify(original, **common, **vars(now), logit_bias=options.get("logit_bias", "auto"))
    if wanted.b != 1 and any(isinstance(layer, CONVERTED) for layer in network.modules()):
        for b in (1 + (wanted.b - 1) / 2, wanted.b):
            set_exponent(network, b)
            yield probe.step(f"B = {b:g}", network)


class _Probe:
    def __init__(
        self, original: nn.Module, images: Tensor, labels: Tensor | None, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.images, self.labels = images, labels
        m, s = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
        self.plain = (images - m) / s
        with torch.no_grad():
            self.logits = torch.cat([original(part) for part in self.plain.split(_BATCH)])

    def step(self, name: str, network: nn.Module, x: Tensor | None = None) -> ProbeStep:
        """Measure a network."""
        if x is None:
            options: ConversionOptions = network.conversion.options  # type: ignore[union-attr, assignment] # reason: of a converted one
            x = encoded(self.images, options.input, self.plain)
            recalibrate_norms(network, x.split(_BATCH))
        with torch.no_grad():
            logits = torch.cat([network.eval()(part) for part in x.split(_BATCH)])
        predicted = logits.argmax(1)
        accuracy = None if self.labels is None else float((predicted == self.labels).double().mean())
        share = explain(network, x[:_EXPLAINED]).image_share.nanmedian()
        return ProbeStep(
            name,
            float((predicted == self.logits.argmax(1)).double().mean()),
            accuracy,
            float(logits.std(1).mean() / self.logits.std(1).mean()),
            float(share),
        )
