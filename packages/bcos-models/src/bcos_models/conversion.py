"""Options of a conversion, what its rules return, and the report of it. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from bcos_core.errors import BcosError, shown
from bcos_models.spec import Antialias

if TYPE_CHECKING:
    from torch import nn

Input = Literal["6ch", "3ch"]


@dataclass(frozen=True)
class ConversionOptions:
    """How far a network departs from what it was: with B = 1 and all kept it computes the same.

    Raises:
        BcosError: B below 1, an unknown input, or flags that are not true or false.
    """

    b: float = 2.0
    """Exponent B of every converted layer."""
    unit_norm: bool = False
    """Weights of unit norm, as in B-cos networks trained from scratch; False keeps the norms they have."""
    keep_bias: bool = False
    """Keep biases; the mean of batch norms is then folded into theirs."""
    keep_norms: bool = False
    """Leave norms as they are; else batch norms become uncentred, and others lose their bias."""
    keep_activations: bool = True
    """Keep ReLU, GELU and the like, which are dynamic linear themselves."""
    keep_pooling: bool = False
    """Keep max pooling; else it becomes average pooling."""
    input: Input = "6ch"
    """``"6ch"``: images with inverse channels in [0, 1]; ``"3ch"``: what the network saw before."""
    skip: tuple[str, ...] = ()
    """Modules that stay as they are, by name or pattern (``"layer4.*"``)."""
    convert_depthwise: bool = False
    """Make depthwise convolutions B-cos too; else they stay linear, without bias: a patch of one channel has little to
    align with, and networks of them lose accuracy by it."""
    antialias: Antialias = "none"
    """``"blurpool"`` low-pass filters what strided convolutions take, and in the place of max pooling."""

    def __post_init__(self) -> None:
        if not isinstance(self.b, int | float) or not self.b >= 1:
            raise BcosError(f"b must be at least 1, got {self.b!r}; 1 computes what the network did, 2 is the default")
        if self.input not in get_args(Input):
            raise BcosError(f"input must be one of {get_args(Input)}, got {self.input!r}")
        if self.antialias not in get_args(Antialias):
            raise BcosError(f"antialias must be one of {get_args(Antialias)}, got {self.antialias!r}")
        if self.antialias != "none" and self.keep_pooling:
            raise BcosError(f"antialias={self.antialias} takes the place of max pooling; leave keep_pooling out")
        for flag in ("unit_norm", "keep_bias", "keep_norms", "keep_activations", "keep_pooling", "convert_depthwise"):
            if not isinstance(getattr(self, flag), bool):
                raise BcosError(f"{flag} must be true or false, got {getattr(self, flag)!r}")
        if not all(isinstance(name, str) for name in self.skip):
            raise BcosError(f"skip must be a list of names of modules, got {self.skip!r}")

    def skips(self, name: str) -> bool:
        """Whether the module of that name, or one around it, is to be left alone."""
        parts = name.split(".")
        around = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        return any(fnmatchcase(outer, pattern) for outer in around for pattern in self.skip)


RULES = 2
"""Version of the rules of conversion. The first subtracted the mean of images by a layer, a constant that belongs to no
pixel, and made depthwise convolutions B-cos; weights that were trained with it are still read with it."""


@dataclass(frozen=True)
class Decisions:
    """What running a network has told its conversion, with which that is repeated without running it."""

    image_layers: tuple[str, ...] = ()
    """Convolutions whose input is the image."""
    classifier: str | None = None
    """Linear layer or 1×1 convolution whose output is the logits."""
    pool: str | None = None
    """Global average pooling whose output is the classifier's input."""
    channels_last: bool = False
    """Whether that pooling sees (N, H, W, C)."""
    widened: bool = False
    """Whether the image layers take the inverse channels."""
    moved: bool = False
    """Whether the classifier stands before the pooling."""
    gates: tuple[str, ...] = ()
    """Layers that compute frozen factors only: no contribution passes through them."""
    idle: tuple[str, ...] = ()
    """Layers that do not run by themselves."""
    functions: Mapping[str, int] = field(default_factory=dict)
    """Activations and max pooling that forward methods call as functions, and how often."""
    rules: int = RULES
    """Version of the rules."""

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Read the ``asdict`` of decisions; refuse anything else."""
        if isinstance(values, dict) and "rules" not in values:
            values = {**values, "rules": 1}
        if not isinstance(values, dict) or values.keys() != {f.name for f in fields(cls)}:
            raise BcosError(f"the decisions of a conversion have other keys: {shown(values)}")
        for name, value in values.items():
            if name in ("image_layers", "gates", "idle"):
                fits = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
                fits = fits and len(set(value)) == len(value)
            elif name in ("classifier", "pool"):
                fits = value is None or isinstance(value, str)
            elif name == "functions":
                fits = isinstance(value, dict) and all(type(v) is int for v in value.values())
            elif name == "rules":
                fits = type(value) is int and 1 <= value <= RULES
            else:
                fits = isinstance(value, bool)
            if not fits:
                raise BcosError(f"the decisions of a conversion have {name}={shown(value)}")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)


@dataclass(frozen=True)
class Conversion:
    """What a rule makes of a layer."""

    module: "nn.Module"
    """Stands in the layer's place; the layer itself if it stays."""
    rule: str
    """What was done, in a few words."""
    dropped: tuple[str, ...] = ()
    """Parameters and buffers of the layer that are gone or folded; all others must be in `module`, unchanged.

    Under the same name, or another.
    """
    is_finished: bool = False
    """Whether everything inside `module` is converted already."""


@dataclass(frozen=True)
class Step:
    """One layer in the report of a conversion."""

    name: str
    """Dotted name of the module in the network."""
    before: str
    """Its class."""
    after: str
    """Class of what stands in its place; the same where the layer stays."""
    reason: str
    """The rule that replaced it, or why it stays."""
    replaced: bool
    dropped: tuple[str, ...] = ()


@dataclass
class ConversionReport:
    """What a conversion did to a network."""

    options: ConversionOptions
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, float] = field(default_factory=dict)
    """What the converted network still adds, by name: mean share of the logits' size for `measured_on`."""
    image_share: float | None = None
    """Mean :attr:`bcos_core.Explanation.image_share` of the converted network for `measured_on`; None if undefined."""
    cancellation: float | None = None
    """The same of :attr:`bcos_core.Explanation.cancellation`."""
    measured_on: str = "a random image"
    notes: list[str] = field(default_factory=list)
    """Remarks on more than one layer: order of the head, encoding, operations that are function calls."""

    @property
    def replaced(self) -> list[Step]:
        """Layers that became others."""
        return [step for step in self.steps if step.replaced]

    @property
    def kept(self) -> list[Step]:
        """Layers that stay, and why."""
        return [step for step in self.steps if not step.replaced]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return asdict(self)
