"""What the files of a run may do only if the user trusts it: run code, open addresses, write outside its folder.

The command line, recipes that it names, and installed plugins are trusted. The ``config.yaml`` of a run and the header
of its weights are not: somebody else may have written them. Imports no torch.
"""

from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcos_core.address import is_address
from bcos_core.errors import BcosError, shown
from bcos_models.model_config import check_opens_nothing

if TYPE_CHECKING:
    from bcos_cli.config.recipe import Recipe

_trust: ContextVar[bool] = ContextVar("bcos_trust_run", default=False)


TrustRun = Annotated[
    bool,
    typer.Option(
        "--trust-run",
        help="Let the files of a run name code to run and addresses to open; only for runs whose author you trust.",
    ),
]
"""The option of every command that loads a run, which hands it to :func:`trust_runs`."""


def trust_runs(trusted: bool) -> None:
    """Set whether the running command trusts its runs."""
    _trust.set(trusted)


def trusts_runs() -> bool:
    """Whether the running command was called with ``--trust-run``."""
    return _trust.get()


def _opens(value: Any) -> str | None:
    return "an address" if value is not None and is_address(value) else None


def _builds(value: Any) -> str | None:
    try:
        check_opens_nothing(value)
    except BcosError as reason:
        return f"what opens a file or an address ({reason})"
    return None


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "train.loss": lambda value: "code" if ":" in value else None,
    "train.trackers": lambda value: (
        "a service that receives metrics of the run" if set(value) - {"tensorboard"} else None
    ),
    "data.path": _opens,
    "data.cache": lambda value: None if value is None else "a folder that is written to",
    "model.weights": _opens,
    "model.start": _opens,
    "model.options": _builds,
    "distillation.teacher": _opens,
}
"""Values of a recipe that can do harm, by dotted key: each check says what the value names, or None if it is safe."""
_REMEDIES = {"data.path": ", or give --data", "model.start": ", or give --from", "data.cache": ""}


def check_trusted(recipe: "Recipe", source: str, *, needs: Iterable[str], typed: Collection[str]) -> None:
    """Refuse values of a run's recipe that can do harm, naming them and the option, unless the user trusts the run.

    Args:
        needs: keys of :data:`CHECKS` whose values are going to be used.
        typed: keys, or sections, that the user gave.
    """
    if trusts_runs():
        return
    for key in needs:
        if any(key == name or key.startswith(f"{name}.") for name in typed):
            continue
        value: Any = recipe
        for part in key.split("."):
            value = None if value is None else getattr(value, part)
        what = None if value is None else CHECKS[key](value)
        if what is not None:
            raise BcosError(
                f"the run's {source} names {what}: {key}={shown(value)}; add --trust-run if you trust who made the run"
                f"{_REMEDIES.get(key, f', or give -o {key}=...')}"
            )
