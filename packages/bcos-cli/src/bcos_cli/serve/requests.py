"""From an uploaded file to answers, without the page."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from bcos_cli.data.input_image import InputImage
from bcos_cli.explain.answers import EXACT, Asker, Subject
from bcos_cli.explain.targets import Question
from bcos_cli.serve.networks import Network
from bcos_cli.serve.uploads import Limits, read_upload
from bcos_core.errors import BcosError, first_line
from bcos_explain import explainer_specs, get_explainer

TOP = 5
"""Predictions shown."""
_KEPT = 64
"""Answers that are remembered, about 1 MB each for images of 224 pixels."""


@dataclass(frozen=True, eq=False)
class Look:
    """An image as a network saw it, and what it predicts."""

    network: Network
    image: InputImage
    probabilities: tuple[float, ...]
    """Of each class."""
    order: tuple[int, ...]
    """Classes, most likely first."""

    def target(self, wanted: int | None) -> int:
        """The wanted class, or the predicted one."""
        return self.order[0] if wanted is None else wanted

    @property
    def top(self) -> list[tuple[int, float]]:
        """The most likely classes with their probabilities."""
        return [(k, self.probabilities[k]) for k in self.order[:TOP]]


class UnexplainedError(BcosError):
    """A method that failed; the message, of one line, says why."""


class Answerer:
    """Looks at images and explains them; remembers the latest answers. Safe to call from several threads.

    Args:
        networks: by their name on the page.
        limits: of uploads.
    """

    def __init__(self, networks: Mapping[str, Network], limits: Limits) -> None:
        self.networks = networks
        self.limits = limits
        self._looked = lru_cache(_KEPT)(self._look)
        self._explained = lru_cache(_KEPT)(_explain)

    def look(self, path: Path, network: str) -> Look:
        """What a network predicts for an uploaded file.

        Raises:
            BcosError: an unknown network, or what :func:`bcos_cli.serve.uploads.read_upload` refuses.
        """
        if network not in self.networks:
            raise BcosError(f"there is no network {network!r} here; choose one of {', '.join(self.networks)}")
        return self._looked(_digest(path, self.limits), path, network)

    def explain(self, look: Look, target: int, method: str) -> Subject:
        """Explain one class by one method; the subject holds that one answer.

        Raises:
            UnexplainedError: a class that is not there, or a method that does not know this network or failed.
        """
        if not 0 <= target < len(look.order):
            raise UnexplainedError(f"there is no class {target}; this network has {len(look.order)}")
        return self._explained(look, target, method)

    def _look(self, digest: str, path: Path, network: str) -> Look:  # noqa: ARG002 - reason: what answers are remembered by
        asked = self.networks[network]
        image = read_upload(path, asked.trained.input, self.limits)
        with asked.lock:
            logits = Asker(asked.trained, {}).logits(image.pixels[None])
        if not bool(torch.isfinite(logits).all()):
            raise BcosError(f"{network} gives logits that are not finite for this image")
        probabilities = asked.trained.confidences(logits)[0].tolist()
        order = logits[0].argsort(descending=True, stable=True).tolist()
        return Look(asked, image, tuple(probabilities), tuple(order))


def methods_offered() -> list[str]:
    """Names of explainers, exact ones first and ours before all."""
    specs = sorted(explainer_specs(), key=lambda spec: (spec.name != EXACT, not spec.exact, spec.name))
    return [spec.name for spec in specs]


def _explain(look: Look, target: int, method: str) -> Subject:
    try:
        asker = Asker(look.network.trained, {method: get_explainer(method)})
        with look.network.lock:
            return asker.answer(look.image.pixels[None], [Question(target)])[0]
    except BcosError as reason:
        raise UnexplainedError(first_line(reason)) from reason
    except Exception as reason:  # a stranger's explainer may raise anything
        raise UnexplainedError(f"it failed: {type(reason).__name__}: {first_line(reason)}") from reason


def _digest(path: Path, limits: Limits) -> str:
    """Of the content of a file, as far as it may be read."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(limits.bytes + 1)).hexdigest()
    except OSError:
        return ""  # which read_upload refuses
