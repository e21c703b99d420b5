"""What is asked of a family: explained exactly as it is, converted, explained exactly after that, trained one step."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from unittest import mock

import torch
import torch.nn.functional as F
from coverage_networks import CLASSES, build, enliven

from bcos_core import AddInverse, explain
from bcos_models import bcosify, recalibrate_norms, set_exponent

EXPONENTS = (2.0, 1.25, 1.0)
"""Networks without norms, untrained, have no signal left with B = 2: they are looked at with less."""
SIGNAL = 1e-6
"""Size of the logits that is enough of it."""


@dataclass
class Result:
    """Errors are relative: of values to the largest logit, of explanations to the largest Σ contributions or logit."""

    family: str
    model: str
    size: int
    parameters: int = 0
    forward_float32: float = 0.0
    forward_float64: float = 0.0
    own_float32: float = 0.0
    """How far the plain network's float32 logits are from its float64 ones."""
    as_is_float32: float = 0.0
    as_is_float64: float = 0.0
    input_share: float = 0.0
    """|Σ contributions| / (|Σ contributions| + |bias|) as it is: how much there is to explain."""
    reproduced: float = 0.0
    """Difference of the logits after a conversion with B = 1 and everything kept, float64."""
    converted_float64: float = 0.0
    converted_float32: float = 0.0
    replaced: int = 0
    kept: int = 0
    exponent: float = 2.0
    """B of the converted network that is explained and trained."""
    loss: float = 0.0
    without_gradient: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self):
        return asdict(self)


def in_double():
    """Networks that cast to float32 themselves (linear attention does) compute in float64 throughout."""
    return mock.patch.object(torch.Tensor, "float", torch.Tensor.double)


def relative(error, *sizes):
    return float(error.detach().abs().max() / max(float(s.detach().abs().max()) for s in sizes))


def explained(network, x, probe=None):
    """The explanation of class 3, and its error relative to what there is to explain."""
    e = explain(network, x, target=3, probe=probe)
    total = e.contributions.flatten(1).sum(1)
    return e, relative(e.residual, total, e.score), float((total.abs() / (total.abs() + e.bias.abs())).mean())


def check(family, model, size):
    start = time.perf_counter()
    result = Result(family, model, size)
    network, images = build(model, size)
    enliven(network, images)
    result.parameters = sum(p.numel() for p in network.parameters())
    plain = {}
    for dtype in (torch.float32, torch.float64):
        network, x = network.to(dtype), images.to(dtype)
        with in_double() if dtype is torch.float64 else nullcontext():
            with torch.no_grad():
                plain[dtype] = network(x)
            e, error, share = explained(network, x, probe=dtype is torch.float64)
        name = str(dtype).removeprefix("torch.")
        setattr(result, f"as_is_{name}", error)
        setattr(result, f"forward_{name}", relative(e.logits - plain[dtype], plain[dtype]))
    result.input_share = share
    result.own_float32 = relative(plain[torch.float32].double() - plain[torch.float64], plain[torch.float64])
    with in_double():
        converted, x = _convert(result, network, images.double())
    result.converted_float32 = explained(converted.float(), x.float())[1]
    _train(result, converted, torch.cat([x, x.flip(-1)]).float())
    result.seconds = time.perf_counter() - start
    return result


def _convert(result, network, images):
    """Convert, float64; returns the network and its input."""
    channels = images.shape[1]
    options = {"mean": (0.5,) * channels, "std": (0.25,) * channels, "image_size": result.size, "logit_bias": None}
    x = AddInverse()(images)
    with torch.no_grad():
        expected = network((images - 0.5) / 0.25)
        kept = {"keep_bias": True, "keep_norms": True, "keep_pooling": True}
        exact = bcosify(network, b=1.0, **kept, **options)
        result.reproduced = relative(exact(x) - expected, expected)
    del exact
    converted = bcosify(network, **options)
    result.replaced, result.kept = len(converted.conversion.replaced), len(converted.conversion.kept)
    result.notes = list(converted.conversion.notes)
    generator = torch.Generator().manual_seed(2)
    batch = torch.cat([images, torch.rand(6, *images.shape[1:], generator=generator, dtype=images.dtype)])
    for result.exponent in EXPONENTS:
        set_exponent(converted, result.exponent)
        recalibrate_norms(converted, [AddInverse()(batch)])
        with torch.no_grad():
            if converted(x).abs().max() > SIGNAL:
                break
    result.converted_float64 = explained(converted, x)[1]
    return converted, x


def _train(result, network, x):
    network.train()
    for exponent in (e for e in EXPONENTS if e <= result.exponent):
        set_exponent(network, exponent)
        network.zero_grad()
        labels = F.one_hot(torch.arange(len(x)), CLASSES).float()
        loss = F.binary_cross_entropy_with_logits(network(x), labels)
        loss.backward()
        result.exponent, result.loss = exponent, float(loss.detach())
        result.without_gradient = [
            name
            for name, p in network.named_parameters()
            if p.grad is None or not bool(p.grad.any()) or not bool(p.grad.isfinite().all())
        ]
        if not result.without_gradient:
            break
