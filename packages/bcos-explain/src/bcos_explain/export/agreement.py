"""Whether a graph gives what `bcos_core.explain` gives."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core import BcosError, explain
from bcos_core.completeness import balance, largest_difference

Run = Callable[[Tensor], Mapping[str, Tensor]]

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Share by which logits may differ, and which contributions and bias may miss."""
_FLIPS = {torch.float32: 1e-1, torch.float64: 1e-6}
"""Share of ``‖W‖`` by which W may differ.

It is larger: where a ReLU is at 0, or two values of a maximum are equal, rounding decides between two maps that
explain the same logit. Eager explanations of a ReLU6 network in float32 and float64 differ by 3e-2 for some images.
"""


@dataclass(frozen=True)
class Agreement:
    """How far a graph is from eager :func:`bcos_core.explain`, for the worst image."""

    logits: float
    """Largest difference of logits, as a share of the largest that differs."""
    weight: float
    """Largest difference of elements of W, as a share of the largest element."""
    weight_norm: float
    """``‖W - W'‖ / ‖W'‖`` of an image."""
    incomplete: float
    """``|logit - Σ map - bias|`` as a share of what is added up, see :class:`bcos_core.completeness.Balance`."""

    def worse(self, other: "Agreement") -> "Agreement":
        """Return the larger of each of the differences."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Agreement(*(max(a, b) for a, b in pairs))


def agreement(results: Mapping[str, Tensor], model: nn.Module, x: Tensor) -> Agreement:
    """Compare what a graph returned for encoded images with :func:`bcos_core.explain`."""
    eager = explain(model, x, results["target"])
    logit = results["logits"].gather(1, results["target"][:, None])[:, 0]
    parts = balance(results["map"].flatten(1), [results["bias"]], logit)
    difference = (results["weight"] - eager.weight).flatten(1)
    expected = eager.weight.flatten(1)
    pairs = zip(results["logits"], eager.logits, strict=True)
    return Agreement(
        logits=float(torch.tensor([largest_difference(a, b) for a, b in pairs]).max()),  # NaN stays NaN
        weight=_share(difference.abs().amax(1), expected.abs().amax(1)),
        weight_norm=_share(difference.norm(dim=1), expected.norm(dim=1)),
        incomplete=float(parts.missing.nan_to_num(nan=torch.inf).max()),
    )


def check_agreement(
    run: Run, model: nn.Module, encode: nn.Module | None, batches: Iterable[Tensor], what: str
) -> Agreement:
    """Run a graph on images, and refuse it if its explanations differ from those of the network.

    Args:
        encode: what images are encoded with; None if they are encoded already.

    Raises:
        BcosError: naming what differs, and by how much.
    """
    worst = Agreement(0.0, 0.0, 0.0, 0.0)
    for images in batches:
        with torch.no_grad():
            x = images if encode is None else encode(images)
        worst = worst.worse(agreement(run(images), model, x))
    for name, share, limit in (
        ("logits", worst.logits, _ROUNDING[x.dtype]),
        ("weights", worst.weight_norm, _FLIPS[x.dtype]),
        ("sum of contributions and bias", worst.incomplete, _ROUNDING[x.dtype]),
    ):
        if not share <= limit:
            raise BcosError(
                f"{what} does not reproduce bcos_core.explain for the example, or for it darker or with noise: its "
                f"{name} differ by {share:.1e} of their size (allowed: {limit:.0e}). Either values of the network's "
                "input decide what it computes, which a graph cannot, or an operation was translated wrongly. Nothing "
                "was written"
            )
    return worst


def _share(difference: Tensor, size: Tensor) -> float:
    return float((difference / size.clamp_min(torch.finfo(size.dtype).tiny)).nan_to_num(nan=torch.inf).max())
