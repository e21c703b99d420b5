"""The classes that are explained, as a user names them."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion
from bcos_core.text import cut
from bcos_explain import ClassTarget

_LONGEST_SLUG = 45


@dataclass(frozen=True)
class TargetChoice:
    """Which classes of each image to explain, by its logits."""

    targets: tuple[int, ...] = ()
    top_k: int | None = None
    """Number of most likely classes to explain besides the targets."""
    contrasts: tuple[tuple[int | None, int], ...] = ()
    """(A, B): why A and not B; None for the predicted class."""

    def __call__(self, logits: Tensor) -> list[list[ClassTarget]]:
        """Return the targets of each image of a batch with logits (N, K), without repetitions."""
        return [self._of_image(order) for order in logits.argsort(dim=1, descending=True, stable=True).tolist()]

    def _of_image(self, order: list[int]) -> list[ClassTarget]:
        chosen = [ClassTarget(k) for k in self.targets]
        nothing_named = not (self.targets or self.contrasts)
        count = self.top_k if self.top_k is not None else int(nothing_named)
        chosen += [ClassTarget(k) for k in order if k not in self.targets][:count]
        for a, b in self.contrasts:
            target = order[0] if a is None else a
            against = order[1] if target == b else b  # the predicted class is compared with the second most likely
            chosen += [ClassTarget(target), ClassTarget(against), ClassTarget(target, against)]
        return list(dict.fromkeys(chosen))


def target_choice(
    targets: Sequence[str], top_k: int | None, contrasts: Sequence[str], classes: Sequence[str]
) -> TargetChoice:
    """Parse the classes that a user names: `targets` by name or number, `contrasts` as ``"A:B"`` or ``"B"``.

    Raises:
        BcosError: an unknown class, more classes than there are, or a class that is compared with itself.
    """
    if top_k is not None and not 1 <= top_k <= len(classes):
        raise BcosError(f"top-k must be from 1 to the {len(classes)} classes of the network, got {top_k}")
    indices = tuple(class_index(name, classes) for name in targets)
    if contrasts and len(classes) < 2:
        raise BcosError("a network of one class has nothing to compare it with; leave out --contrast")
    return TargetChoice(indices, top_k, tuple(_pair(text, classes) for text in contrasts))


def class_index(name: str, classes: Sequence[str]) -> int:
    """Return the number of a class, given by name or number.

    Raises:
        BcosError: no such class.
    """
    if _is_class(name, classes):
        return classes.index(name) if name in classes else int(name)
    raise BcosError(
        f"there is no class {name!r}; {suggestion(name, list(classes))} (or a number from 0 to {len(classes) - 1})"
    )


def class_text(index: int, classes: Sequence[str]) -> str:
    """Return a readable name of a class: its name, or ``class 7`` where that is only a number."""
    name = classes[index]
    return f"class {name}" if name.isdecimal() else name


def target_text(target: ClassTarget, classes: Sequence[str]) -> str:
    """Return a readable name of a target: its class, and the one that it is compared with."""
    name = class_text(target.index, classes)
    return name if target.against is None else f"{name}, not {class_text(target.against, classes)}"


def slugs(classes: Sequence[str]) -> list[str]:
    """Return class names as parts of file names; numbered where two would be the same."""
    made = [cut("".join(c if c.isalnum() else "_" for c in name), _LONGEST_SLUG) for name in classes]
    counts = Counter(slug.casefold() for slug in made)
    return [f"{slug}_{k}" if counts[slug.casefold()] > 1 else slug for k, slug in enumerate(made)]


def _pair(text: str, classes: Sequence[str]) -> tuple[int | None, int]:
    """Return (A, B) for ``A:B``, also where names hold colons, and (None, B) for ``B``."""
    if ":" not in text and not _is_class(text, classes):
        raise BcosError(f"there is no class {text!r}; {_contrast_meant(text, classes)}")
    if text in classes or ":" not in text:
        return None, class_index(text, classes)
    splits = [(text[:i], text[i + 1 :]) for i, c in enumerate(text) if c == ":"]
    known = [pair for pair in splits if all(_is_class(name, classes) for name in pair)]
    a, b = known[0] if known else splits[0]
    first, second = class_index(a, classes), class_index(b, classes)
    if first == second:
        raise BcosError(f"--contrast needs two different classes, got {text!r}")
    return first, second


def _contrast_meant(text: str, classes: Sequence[str]) -> str:
    """Say how a contrast is written that no colon divides, or which class is meant."""
    parts = [(text[:i], text[i + 1 :]) for i, c in enumerate(text) if not c.isalnum()]
    for a, b in parts:
        close = [difflib.get_close_matches(name.strip(), classes, n=1, cutoff=0.8) for name in (a, b)]
        if all(close):
            return f"why A and not B is written A:B, did you mean '{close[0][0]}:{close[1][0]}'?"
    return f"{suggestion(text, list(classes))} (or a number from 0 to {len(classes) - 1}; A and not B is written A:B)"


def _is_class(name: str, classes: Sequence[str]) -> bool:
    return name in classes or (name.isdecimal() and int(name) < len(classes))
