"""Remarks of explainers about their own results: that a method fell back, or that something is missing or cancelled.

Maps look alike whether a method did what its name says or not. An explainer says so with :func:`remark`.
Code that shows maps or scores gathers remarks with :func:`collect_remarks`; elsewhere they are Python
warnings (:class:`ExplainerRemark`).
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from torch import Tensor

from bcos_core.completeness import balance

_GAP = 0.01
"""Of a difference of logits; a smaller gap is not worth a remark."""
_ROUNDING = 1e-4
"""Of the sum of absolute attributions; a smaller gap is rounding."""


class ExplainerRemark(UserWarning):
    """A remark that nobody collected."""


@dataclass(frozen=True)
class Remark:
    """One remark on one map, or on all maps of a call."""

    text: str
    """With ``{share}`` where the share stands."""
    share: float | None = None
    """How much is missing, or how much is noise."""
    image: int | None = None
    """Number in the batch; None for every image."""
    target: int | None = None
    """Number of the explained class among several; None for every class."""

    def __str__(self) -> str:
        if self.share is None:
            return self.text
        shown = "more than 1000 %" if self.share > 10 else f"{self.share:.2g}" if self.share < 0.01 else ""
        return self.text.replace("{share}", shown or f"{self.share:.0%}".replace("%", " %"))


_collected: ContextVar[list[Remark] | None] = ContextVar("collected remarks", default=None)


@contextmanager
def collect_remarks() -> Iterator[list[Remark]]:
    """Gather the remarks of all explainers that this thread calls inside the block."""
    found: list[Remark] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def remark(text: str, where: Tensor | None = None, share: Tensor | None = None) -> None:
    """Say something about a call's maps.

    Args:
        text: one line, with ``{share}`` where the share stands.
        where: (N,) or (N, T), about which maps; None for all of them.
        share: of the shape of `where`.
    """
    if where is None:
        pass_on([Remark(text)])
        return
    places = where.detach().cpu().nonzero().tolist()
    shares = [None] * len(places) if share is None else share.detach()[where].double().tolist()
    pass_on([Remark(text, size, *place) for place, size in zip(places, shares, strict=True)])


def remark_on_gap(attribution: Tensor, difference: Tensor, cure: str) -> None:
    """Say where ``Σ attribution`` misses more than 1 % of ``f(x) - f(0)``.

    Args:
        attribution: (N, T, C, H, W).
        difference: (N, T), ``f(x) - f(0)`` of the explained logits.
        cure: what to do, or why it is so.
    """
    parts = balance(attribution.flatten(2), [], difference)
    gap = parts.residual.abs()
    missed = (gap > _GAP * parts.score.abs()) & (gap > _ROUNDING * parts.absolute)
    remark(f"the map's sum misses {{share}} of f(x) - f(0); {cure}", missed, gap / parts.score.abs())


def pass_on(remarks: Sequence[Remark], *, first_image: int = 0, target: int | None = None) -> None:
    """Hand remarks of a part of a batch (with a `target`: of that class alone) to the code that collects the whole."""
    collected = _collected.get()
    if collected is not None:
        for found in remarks:
            image = None if found.image is None else found.image + first_image
            collected.append(replace(found, image=image, target=found.target if target is None else target))
        return
    for line in remark_lines(remarks):
        warnings.warn(line, ExplainerRemark, stacklevel=2)


def remarks_about(remarks: Iterable[Remark], image: int, target: int) -> list[Remark]:
    """Those of one map."""
    return [r for r in remarks if r.image in (None, image) and r.target in (None, target)]


def worst(remarks: Iterable[Remark]) -> list[Remark]:
    """One remark for each text, with the largest share, about no map in particular."""
    kept: dict[str, Remark] = {}
    for found in remarks:
        before = kept.get(found.text)
        if before is None or (found.share or 0) > (before.share or 0):
            kept[found.text] = replace(found, image=None, target=None)
    return list(kept.values())


def remark_lines(remarks: Iterable[Remark]) -> list[str]:
    """Lines about several maps together: each text once, its largest share as ``up to``."""
    found = list(remarks)
    shares = {r.text: {other.share for other in found if other.text == r.text} for r in found}
    return [
        str(replace(r, text=r.text.replace("{share}", "up to {share}")) if len(shares[r.text]) > 1 else r)
        for r in worst(found)
    ]
