"""The networks behind the page, and what they predict and explain for uploaded files."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock

import torch

from bcos_cli.config.network import given_images, load_network
from bcos_cli.data.input_image import InputImage
from bcos_cli.explain.batch import explain_images
from bcos_cli.processes.group import default_device
from bcos_cli.serve.uploads import Limits, read_upload
from bcos_core.errors import BcosError, first_line
from bcos_explain import ClassTarget, ExplainedImage, explainer_specs
from bcos_models import TrainedModel
from bcos_models.images import Range
from bcos_models.spec import ImageChanges

TOP = 5
"""Most likely classes that are shown."""
_KEPT = 64
"""Explanations that are remembered, about 1 MB each for images of 224 pixels."""


@dataclass
class Queue:
    """Requests for one method of one network, which are answered one after the other."""

    requests: list[object] = field(default_factory=list)
    """Those that are answered or wait."""
    seconds: float = 0.0
    """Duration of the latest answer."""
    _lock: Lock = field(default_factory=Lock, repr=False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until the earlier requests are answered, then keep the later ones waiting."""
        request = object()
        self.requests.append(request)
        try:
            with self._lock:
                start = time.monotonic()
                yield
                self.seconds = time.monotonic() - start
        finally:
            self.requests.remove(request)

    @property
    def outlook(self) -> str:
        """What a new request has to wait for, and about how long if that is known."""
        before = len(self.requests)
        wait = f", about {(before + 1) * self.seconds:.0f} s" if self.seconds >= 1 else ""
        if before == 0:
            return f"working …{wait}"
        return f"waiting for {before} earlier request{'s' if before > 1 else ''} for this method …{wait}"


@dataclass(frozen=True, eq=False)
class Network:
    """A network in memory. A slow method keeps only those waiting who ask for it, too."""

    name: str
    """Its name on the page, which no other network there has."""
    trained: TrainedModel
    queues: dict[str, Queue] = field(default_factory=dict, repr=False)

    def queue(self, method: str) -> Queue:
        """Return the queue of a method; predictions have one of their own, that of ``""``."""
        return self.queues.setdefault(method, Queue())


def load_networks(
    runs_or_models: Sequence[str],
    weights: str | None = None,
    classes: Path | None = None,
    range: Range | None = None,
) -> dict[str, Network]:
    """Load the networks that a user names, each once, by their names on the page.

    Raises:
        BcosError: as :func:`bcos_cli.config.network.load_network`, or weights or names for several models.
    """
    given = list(dict.fromkeys(runs_or_models))
    images = None if given_images() == ImageChanges() else given_images()
    of_one = {"--weights": weights, "--classes": classes, "the size, mean or std of images": images}
    for option, value in of_one.items():
        if value is not None and len(given) > 1:
            raise BcosError(
                f"{option} goes with one model, got {len(given)}; give folders or weights files of runs instead"
            )
    # the last part of a path; names of models and repositories as they are
    names = [Path(name).resolve().name if Path(name).exists() else name for name in given]
    networks = {}
    for source, short in zip(given, names, strict=True):
        trained = load_network(source, weights, classes, range=range)
        trained.model.to(default_device()).eval()
        name = short if names.count(short) == 1 else source
        networks[name] = Network(name, trained)
    return networks


@dataclass(frozen=True, eq=False)
class Prediction:
    """An image as a network gets it, and what the network predicts."""

    network: Network
    image: InputImage
    probabilities: tuple[float, ...]
    """Probability of each class."""
    order: tuple[int, ...]
    """Classes, most likely first."""

    def target(self, chosen: int | None, against: int | None = None) -> ClassTarget:
        """The chosen class, or the predicted one; with `against`, why it and not that one."""
        return ClassTarget(self.order[0] if chosen is None else chosen, against)

    @property
    def top(self) -> list[tuple[int, float]]:
        """The most likely classes with their probabilities."""
        return [(k, self.probabilities[k]) for k in self.order[:TOP]]


class UnexplainedError(BcosError):
    """A method that failed; the one-line message says why."""


class PageExplainer:
    """Explains images by networks, named as on the page; remembers the latest. Safe to call from several threads."""

    def __init__(self, networks: Mapping[str, Network], limits: Limits, *, truncated: bool = False) -> None:
        self.networks = networks
        self.limits = limits
        self.truncated = truncated
        self._predicted = lru_cache(_KEPT)(self._predict)
        self._explained = lru_cache(_KEPT)(_explain)

    def predict(self, path: Path, network: str) -> Prediction:
        """Return what a network predicts for an uploaded file.

        Raises:
            BcosError: an unknown network, or what :func:`bcos_cli.serve.uploads.read_upload` refuses.
        """
        if network not in self.networks:
            raise BcosError(f"there is no network {network!r} here; choose one of {', '.join(self.networks)}")
        return self._predicted(_digest(path, self.limits), path, network)

    def explain(self, prediction: Prediction, target: ClassTarget, method: str) -> ExplainedImage:
        """Explain one class by one method; the image holds that one explanation.

        Raises:
            UnexplainedError: a class that is not there or compared with itself, or a method that does not know this
                network or failed.
        """
        for index in (target.index, target.against or 0):
            if not 0 <= index < len(prediction.order):
                raise UnexplainedError(f"there is no class {index}; this network has {len(prediction.order)}")
        if target.index == target.against:
            raise UnexplainedError("a class cannot be compared with itself; choose another one, or none")
        return self._explained(prediction, target, method)

    def _predict(self, digest: str, path: Path, network: str) -> Prediction:  # noqa: ARG002 - reason: the cache's key
        chosen = self.networks[network]
        image = read_upload(path, chosen.trained.input, self.limits, truncated=self.truncated)
        with chosen.queue("").turn():
            (explained,) = explain_images(chosen.trained, image.pixels[None], methods=())
        if not bool(torch.isfinite(explained.logits).all()):
            raise BcosError(f"{network} gives logits that are not finite for this image")
        order = explained.logits.argsort(descending=True, stable=True).tolist()
        return Prediction(chosen, image, tuple(explained.probabilities.tolist()), tuple(order))


def methods_offered() -> list[str]:
    """Return the names of explainers: ``bcos``, the other exact ones, the rest."""
    specs = sorted(explainer_specs(), key=lambda spec: (spec.name != "bcos", not spec.exact, spec.name))
    return [spec.name for spec in specs]


def _explain(prediction: Prediction, target: ClassTarget, method: str) -> ExplainedImage:
    trained, pixels = prediction.network.trained, prediction.image.pixels[None]
    try:
        with prediction.network.queue(method).turn():
            return explain_images(trained, pixels, [target], (method,), probe=True, keep_weight=False, colours=True)[0]
    except BcosError as reason:
        raise UnexplainedError(first_line(reason)) from reason
    except Exception as reason:  # a stranger's explainer may raise anything
        raise UnexplainedError(f"it failed: {type(reason).__name__}: {first_line(reason)}") from reason


def _digest(path: Path, limits: Limits) -> str:
    """Hash the content of a file, up to the largest size that is read."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(limits.bytes + 1)).hexdigest()
    except OSError:
        return ""  # which read_upload refuses
