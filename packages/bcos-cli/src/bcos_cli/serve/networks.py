"""The networks behind the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from bcos_cli.config.trust import trusts_runs
from bcos_cli.processes.group import default_device
from bcos_core.errors import BcosError
from bcos_models import TrainedModel, load_trained


@dataclass(frozen=True, eq=False)
class Network:
    """A network in memory, used by one request at a time."""

    name: str
    """Its name on the page, which no other network there has."""
    trained: TrainedModel
    lock: Lock = field(default_factory=Lock, repr=False)


def load_networks(runs_or_models: Sequence[str], weights: str | None = None) -> dict[str, Network]:
    """Load the networks that a user names, each once, by their names on the page.

    Args:
        runs_or_models: each as :func:`bcos_models.load_trained` takes it.
        weights: a file of weights, for one model by name.

    Raises:
        BcosError: as :func:`bcos_models.load_trained`, or weights for several models.
    """
    given = list(dict.fromkeys(runs_or_models))
    if weights is not None and len(given) > 1:
        raise BcosError(
            f"--weights goes with one model, got {len(given)}; give folders or weights files of runs instead"
        )
    names = [_short_name(name) for name in given]
    networks = {}
    for source, short in zip(given, names, strict=True):
        trained = load_trained(source, weights, trust=trusts_runs())
        trained.model.to(default_device()).eval()
        name = short if names.count(short) == 1 else source
        networks[name] = Network(name, trained)
    return networks


def _short_name(source: str) -> str:
    """Last part of a path; names of models and repositories as they are."""
    return Path(source).resolve().name if Path(source).exists() else source
