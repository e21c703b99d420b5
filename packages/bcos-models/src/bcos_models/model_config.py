"""The description of a network, and the checks of one that a file holds. Imports no torch.

Nothing that a file says is trusted: it names an installed architecture and gives it plain numbers and words.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from bcos_core.errors import BcosError, shortened, shown
from bcos_core.text import parse_json
from bcos_models.spec import InputSpec

Probabilities = Literal["sigmoid", "softmax"]

MAX_CLASSES = 1_000_000
MAX_NAME = 1000
"""Characters of a name."""
MAX_NUMBER = 100_000
"""Size of a number among options; none of a layer's sizes comes near it."""
MAX_VALUES = 10_000
"""Numbers, words, lists and mappings in the options of one network."""
MAX_DEPTH = 10
"""Levels of lists and mappings in them."""
ARGUMENTS = frozenset({"name", "num_classes", "origin", "pretrained", "weights", "decisions"})
"""Arguments of :func:`bcos_models.create_model` and of its builders that are not options of a network."""
_OPENS = re.compile(r"pretrained.*|.*weights|(?!drop_path$).*_path|cache_dir|file|url|hf_hub_id|source")
"""Options of other libraries' builders that read files or fetch addresses."""
_WORD = re.compile(r"[\w.*?\[\]!+ -]{0,200}")
"""A name or a pattern of names, but neither a path into another folder nor an address."""


OPTIONAL = ("decisions", "package")
"""Of a description: files of before do not have them."""


@dataclass(frozen=True)
class ModelConfig:
    """Description of a network: how :func:`bcos_models.create_model` makes it, and what its outputs mean.

    A model has it as ``bcos_config``; it travels in the header of a weights file and in a hub's ``config.json``.
    """

    name: str
    num_classes: int
    """0 for a network without a classifier."""
    options: Mapping[str, Any]
    """Those that the caller gave."""
    input: InputSpec
    classes: Sequence[str] | None = None
    """Names of the outputs, in their order; None if they are not known."""
    probabilities: Probabilities = "sigmoid"
    """What makes probabilities of the logits."""
    decisions: Mapping[str, Any] | None = None
    """Those of the conversion of a converted network, with which it is repeated; None if they are not known."""
    package: str | None = None
    """Package and version that the architecture came with; None for one of ours."""

    def optional(self) -> dict[str, Any]:
        """Return what not every network has, as far as this one has it."""
        return {key: value for key in OPTIONAL if (value := getattr(self, key)) is not None}

    def check(self) -> None:
        """Refuse values that no network has, which could not be read again."""
        check_name(self.name)
        check_options(self.options)
        if self.decisions is not None:
            _check_plain(section(self.decisions, "decisions"), "decisions", MAX_DEPTH, [MAX_VALUES])
        if self.classes is not None:
            check_classes(self.classes)
            if len(self.classes) != self.num_classes:
                raise BcosError(f"there are {len(self.classes):,} names of classes for {self.num_classes:,} outputs")
        if self.probabilities not in get_args(Probabilities):
            known = " or ".join(map(repr, get_args(Probabilities)))
            raise BcosError(f"probabilities must be {known}, got {shown(self.probabilities)}")
        if self.package is not None:
            check_name(self.package, "package")

    def to_json(self) -> str:
        """JSON for the header of a weights file."""
        values = {
            "model": self.name,
            "options": dict(self.options),
            "input": self.input.to_dict(),
            "classes": list(self.classes or ()),
            "probabilities": self.probabilities,
            **self.optional(),
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` gave, and refuse anything else."""
        values = section(parse_json(text), "the description")
        keys = ("model", "options", "input", "classes", "probabilities")
        if missing := [key for key in keys if key not in values]:
            raise BcosError(f"it does not say its {missing[0]}")
        if unknown := sorted(values.keys() - {*keys, *OPTIONAL}):
            raise BcosError(f"it says its {shown(unknown[0])}, which is not known here")
        name, options, spec, classes, probabilities = (values[key] for key in keys)
        check_classes(classes)
        described = section(options, "options"), read_input(spec), classes, probabilities
        more: dict[str, Any] = {key: values.get(key) for key in OPTIONAL}
        config = cls(name, len(classes), *described, **more)
        config.check()
        return config


def usual_probabilities(name: str, spec: InputSpec) -> Probabilities:
    """What makes probabilities of the logits of a network that does not say how it was trained.

    A sigmoid for each class in B-cos networks; a softmax in plain ones, and in those that were converted
    (``timm/NAME``) and not trained since.
    """
    return "softmax" if spec.encoding == "standardize" or "/" in name else "sigmoid"


def section(value: object, what: str) -> dict[str, Any]:
    """Return a value that must be a mapping."""
    if not isinstance(value, dict):
        raise BcosError(f"{what} must be a mapping, got {shown(value)}")
    return value


def read_input(value: object) -> InputSpec:
    """Read the ``to_dict`` of an :class:`InputSpec`; refuse other keys, and values that no input has."""
    values = section(value, "input")
    try:
        return InputSpec.from_dict(values)
    except TypeError as reason:
        raise BcosError(f"input has other keys: {', '.join(shown(key, 40) for key in list(values)[:9])}") from reason


def check_name(name: object, what: str = "model") -> None:
    """Refuse what is not the name of an architecture, or of a package."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BcosError(f"the {what} must be a name of at most {MAX_NAME:,} characters, got {shown(name)}")


def check_classes(classes: object) -> None:
    """Refuse what is not a list of distinct names of a network's outputs, and too many of them."""
    if not isinstance(classes, list | tuple) or not 0 < len(classes) <= MAX_CLASSES:
        raise BcosError(f"classes must be a list of 1 to {MAX_CLASSES:,} names, got {shown(classes)}")
    wrong = next((c for c in classes if not isinstance(c, str) or not 0 < len(c) <= MAX_NAME), None)
    if wrong is not None:
        raise BcosError(f"a class must be a name of 1 to {MAX_NAME:,} characters, got {shown(wrong)}")
    if len(set(classes)) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise BcosError(f"the class {shown(twice)} is named twice")


def check_options(options: object) -> None:
    """Refuse options other than numbers, words, lists and mappings of them, and more of them than any network has."""
    values = section(options, "options")
    if reserved := ARGUMENTS & values.keys():
        raise BcosError(f"{', '.join(sorted(reserved))} cannot stand among the options of a network; remove it")
    _check_plain(values, "options", MAX_DEPTH, [MAX_VALUES])


def _check_plain(value: object, key: str, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        raise BcosError(f"options have more than {MAX_VALUES:,} values or {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or len(name) > MAX_NAME:
                raise BcosError(f"a key in {key} must be a name, got {shown(name)}")
            _check_plain(inner, shortened(f"{key}.{name}", 100), depth - 1, left)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_plain(inner, key, depth - 1, left)
    elif isinstance(value, int | float):
        if not (math.isfinite(value) if isinstance(value, float) else abs(value) <= MAX_NUMBER):
            raise BcosError(f"{key} must be finite, and at most {MAX_NUMBER:,} where it is whole, got {shown(value)}")
    elif value is not None and not (isinstance(value, str) and len(value) <= MAX_NAME):
        raise BcosError(f"{key} must be a number, a word, a list or a mapping, got {shown(value)}")


def check_opens_nothing(options: Mapping[str, Any], key: str = "options") -> None:
    """Refuse options with which a builder would read a file or fetch an address, naming the first of them."""
    for name, value in options.items():
        if _OPENS.fullmatch(name):
            raise BcosError(f"{key}.{shortened(name, 60)} would open a file or an address")
        _check_word(value, f"{key}.{shortened(name, 60)}")


def _check_word(value: object, key: str) -> None:
    if isinstance(value, dict):
        check_opens_nothing(value, shortened(key, 200))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_word(inner, key)
    elif isinstance(value, str) and not _WORD.fullmatch(value):
        raise BcosError(f"{key}={shown(value)} is not a word; it may name a file or an address")


def check_outputs(number: object) -> int:
    """Return a number of outputs, as a file has it; 0 for a network without a classifier."""
    if type(number) is not int or not 0 <= number <= MAX_CLASSES:
        raise BcosError(f"the number of classes must be 0 to {MAX_CLASSES:,}, got {shown(number)}")
    return number
