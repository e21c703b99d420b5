"""Conditions on scores, which make ``bcos eval`` a test that a network passes or fails."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bcos_cli.evaluate.metrics import all_metrics
from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(r"\s*([\w./-]+?)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*")


@dataclass(frozen=True)
class Condition:
    """A bound on the value of a metric, such as ``gridpg/bcos>=0.8``."""

    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read ``METRIC>=VALUE`` (or ``<=``, ``>``, ``<``).

        Raises:
            BcosError: another form.
        """
        match = _FORM.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            return cls(match[1], match[2], float(match[3]))
        except ValueError:
            raise BcosError(
                f"a condition reads METRIC>=VALUE, such as top1>=0.9 or gridpg/bcos>=0.8, got {text!r}"
            ) from None

    @property
    def name(self) -> str:
        """The metric without the explainer."""
        return self.metric.partition("/")[0]

    def check(self, metrics: Sequence[str], explainers: Sequence[str]) -> None:
        """Refuse a condition on a score that will not be measured.

        Raises:
            BcosError: no score of that name; some metrics have one for each explainer.
        """
        known = all_metrics()
        scores: list[str] = []
        for metric in metrics:
            explained = "explainer" in getattr(known.get(metric), "needs", ())
            scores += [f"{metric}/{explainer}" for explainer in explainers] if explained else [metric]
        if self.metric not in scores:
            raise BcosError(f"there will be no score {self.metric!r}; {suggestion(self.metric, scores)}")

    def failure(self, values: Mapping[str, float], skipped: Mapping[str, str]) -> str | None:
        """Return why it does not hold for these values by score, or None if it does.

        Raises:
            BcosError: no such score, nor among those `skipped`, with the reason, because they could not be measured.
        """
        if self.metric in values:
            value = values[self.metric]
            if math.isnan(value):
                return f"{self.metric} is undefined for every image, needed {self.comparison} {self.bound:g}"
            holds = _COMPARISONS[self.comparison](value, self.bound)
            return None if holds else f"{self.metric} is {value:.4g}, needed {self.comparison} {self.bound:g}"
        reason = skipped.get(self.metric) or skipped.get(self.name)
        if reason is None:
            raise BcosError(f"there is no score {self.metric!r}; {suggestion(self.metric, values)}")
        return f"{self.metric} was not measured: {reason}"
