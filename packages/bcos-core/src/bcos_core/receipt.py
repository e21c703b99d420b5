"""The receipt of an explanation: what a score is made of, whether it adds up, and what it comes from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core.additive_terms import ARGUMENT, FROZEN, LOGIT_BIAS, SCALED_LOGIT_BIAS, UNNAMED
from bcos_core.encoding import INVERSE
from bcos_core.errors import BcosError
from bcos_core.explanation import Explanation
from bcos_core.image_share import LOW_SHARE, cancellation, image_share, percent

NORMS = "norm shifts"
LAYERS = "layer biases"
POSITIONS = "positions and tokens"
IMAGES = "input normalisation"
CONSTANTS = "other constants"
HELD = "depends on the image, held constant"

_IMAGE_MEANS = ("mean of the images", "mean", "pixel_mean", "image_mean")
_BAR = 20
NOTHING = "the image contributes next to nothing"
_FAINT = 1e-4
"""Share of the score that contributions must be, in absolute value, for a map to show something."""
_LOOSE = 0.05
"""Share of the score from which on what rounding may leave over is worth a warning."""
_TERMS = 6
"""Terms of a bias that are named; more are summed."""


@dataclass(frozen=True)
class Receipt:
    """``score = contributions + bias + residual``, in units of the logit."""

    score: float
    """What was explained, as the network computed it."""
    contributions: float
    """Sum of ``W(x)·x`` over the input."""
    absolute: float
    """Sum of ``|W(x)·x|`` over the input; compared with `contributions` it shows how much cancels."""
    bias: float
    """What the map does not show: the sum of `terms`."""
    terms: Mapping[str, float]
    """What `bias` is made of, by origin."""
    residual: float
    """What is left over: ``score - contributions - bias``."""
    allowed: float
    """Largest residual that is rounding."""
    held: float = 0.0
    """Part of `bias` that depends on the image, but that the network holds constant."""
    probe: float | None = None
    """Share by which the network, its dynamic factors held, misses the map at another point; None if not computed."""

    @property
    def passed(self) -> bool:
        """Whether it adds up."""
        return abs(self.residual) <= self.allowed

    @property
    def image_share(self) -> float:
        """As :attr:`bcos_core.Explanation.image_share`, of these numbers; NaN for nothing but a logit bias."""
        bias = self.bias - self.terms.get(LOGIT_BIAS, 0.0)
        return float(image_share(_exact(self.contributions), _exact(bias)))

    @property
    def cancellation(self) -> float:
        """As :attr:`bcos_core.Explanation.cancellation`, of these numbers; NaN where all contributions are zero."""
        return float(cancellation(_exact(self.contributions), _exact(self.absolute)))

    @property
    def shares(self) -> str:
        """Image share and cancellation, in words."""
        return f"image share {percent(self.image_share)} · cancellation {percent(self.cancellation)}"

    @property
    def equation(self) -> str:
        """``score = contributions + bias``, in numbers."""
        sign = "−" if self.bias < 0 else "+"
        parts = (self.score, self.contributions, abs(self.bias))
        score, contributions, bias = (number(part, largest=max(map(abs, parts))) for part in parts)
        return f"{score} = {contributions} {sign} {bias} bias"

    @property
    def verdict(self) -> str:
        """``adds up``, or what is missing."""
        return "adds up" if self.passed else f"{number(self.residual)} missing"

    @property
    def bar_width(self) -> float:
        """The image's share in per cent, for a bar; 0 where it is undefined."""
        return 0.0 if math.isnan(self.image_share) else 100 * self.image_share

    @property
    def bar(self) -> str:
        """The shares of image and bias as a bar, and in numbers."""
        filled = round(_BAR * self.bar_width / 100)
        aside = " without the logit bias" if self.terms.get(LOGIT_BIAS) else ""
        shares = f"image share {percent(self.image_share)}, bias{aside} {percent(1 - self.image_share)}"
        return f"{'█' * filled}{'░' * (_BAR - filled)} {shares}"

    @property
    def cancelled(self) -> str:
        """The cancellation, with the numbers that it is made of."""
        sums = f"{number(self.absolute)} of absolute contributions leave {number(self.contributions)}"
        return f"cancellation {percent(self.cancellation)}: {sums}"

    @property
    def warnings(self) -> list[str]:
        """What a reader of the map must know, in plain words."""
        found = []
        if self.absolute <= _FAINT * abs(self.score):
            found.append(
                f"{NOTHING}: of a score of {number(self.score)} its contributions are {number(self.absolute)} in "
                "absolute value, whatever the colours of the map"
            )
        if self.image_share < LOW_SHARE:
            aside = ", its logit bias aside," if self.terms.get(LOGIT_BIAS) else ""
            found.append(
                f"{percent(1 - self.image_share)} of this score{aside} is bias: it does not come from the image, and "
                "the map does not show it"
            )
        if self.allowed > _LOOSE * abs(self.score):
            found.append(
                f"in this precision rounding may hide {number(self.allowed)} of a score of {number(self.score)}; "
                "explain in float32 to be sure"
            )
        if abs(self.held) > self.allowed:
            found.append(
                f"{number(self.held)} of the bias depends on the image, but the network holds it constant: "
                "the map does not show it"
            )
        return found

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names and numbers, in the order in which they are added up; terms of the bias are indented."""
        largest = max(abs(self.score), abs(self.contributions), abs(self.bias))
        terms = [(f"  {name}", number(value)) for name, value in self.terms.items() if value]
        rest = sum([value for value in self.terms.values() if value][_TERMS:])
        more = [(f"  {len(terms) - _TERMS} others", number(rest))] if len(terms) > _TERMS + 1 else []
        probe = [] if self.probe is None else [("missed at another point, share", exponent(self.probe))]
        return [
            ("logit of the network", number(self.score, largest=largest)),
            ("contributions of the image", number(self.contributions, largest=largest)),
            ("  in absolute value", number(self.absolute)),
            ("bias, not from the image", number(self.bias, largest=largest)),
            *(terms[:_TERMS] + more if more else terms),
            (f"residual (up to {exponent(self.allowed)} is rounding)", exponent(self.residual)),
            ("image share", percent(self.image_share)),
            ("cancellation", percent(self.cancellation)),
            *probe,
        ]

    def to_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "logit": self.score,
            "contributions": self.contributions,
            "absolute_contributions": self.absolute,
            "bias": self.bias,
            "bias_terms": dict(self.terms),
            "held_constant": self.held,
            "image_share": _or_none(self.image_share),
            "cancellation": _or_none(self.cancellation),
            "residual": self.residual,
            "allowed": self.allowed,
            "probe": self.probe,
            "passed": self.passed,
            "warnings": self.warnings,
        }


def receipts(explanation: Explanation, *, model: nn.Module | None = None) -> list[list[Receipt]]:
    """A receipt for each image and target, (N, T) in nested lists.

    Args:
        explanation: of any network.
        model: the explained one, to sum its constants by origin (logit bias, norm shifts, layer biases,
            positions and tokens, input normalisation, other constants, and what is held constant though it
            depends on the image). None leaves them by name.
    """
    n, parts = len(explanation.target), explanation.balance

    def numbers(values: Tensor) -> list[list[float]]:
        rows: list[list[float]] = values.reshape(n, -1).tolist()
        return rows

    sums = {name: numbers(getattr(parts, name)) for name in ("score", "contributions", "absolute", "bias", "residual")}
    sums["allowed"] = numbers(explanation.allowed_residual)
    if explanation.probe is not None:
        sums["probe"] = numbers(explanation.probe)
    named = {name: numbers(term) for name, term in explanation.bias_terms.items()}

    def receipt(i: int, t: int) -> Receipt:
        terms = {name: values[i][t] for name, values in named.items()}
        return Receipt(
            terms=terms if model is None else by_origin(terms, model),
            held=sum(value for name, value in terms.items() if name.endswith(FROZEN)),
            **{name: values[i][t] for name, values in sums.items()},
        )

    return [[receipt(i, t) for t in range(len(row))] for i, row in enumerate(sums["score"])]


def by_origin(terms: Mapping[str, float], model: nn.Module) -> dict[str, float]:
    """Sum the terms of a bias by where they come from; largest first."""
    if not isinstance(model, nn.Module):
        raise BcosError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    sums: dict[str, float] = {}
    for name, value in terms.items():
        origin = _origin(name, model)
        sums[origin] = sums.get(origin, 0.0) + value
    return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))


def number(value: float, *, largest: float | None = None) -> str:
    """A logit with two decimals, more if it (or `largest`, shown beside it with as many) is below 1.

    In powers of ten below 1e-4. A minus sign is as wide as a plus, and zero has none.
    """
    size = abs(value) if largest is None else largest
    if 0 < size < 1e-4:
        return exponent(value)
    size = float(f"{size:.2e}")  # as it is shown: just below 1 is 1.00
    decimals = 2 if size >= 1 or size == 0 else 2 - math.floor(math.log10(size))
    return f"{value:z.{decimals}f}".replace("-", "−")


def exponent(value: float) -> str:
    """A number in powers of ten, with a minus sign that is as wide as a plus."""
    return f"{value:z.1e}".replace("-", "−")


def _exact(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _or_none(share: float) -> float | None:
    return None if math.isnan(share) else share


def _origin(name: str, model: nn.Module) -> str:
    if name.endswith(FROZEN):
        return HELD
    owner, _, leaf = name.rpartition(".")
    if leaf in _IMAGE_MEANS:
        return IMAGES
    if name in (LOGIT_BIAS, SCALED_LOGIT_BIAS, INVERSE):
        return name
    if name == UNNAMED or name.startswith(ARGUMENT):
        return CONSTANTS
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return CONSTANTS
    if isinstance(getattr(module, "running_var", None), Tensor) or "norm" in type(module).__name__.lower():
        return NORMS
    return LAYERS if leaf.endswith("bias") else POSITIONS
