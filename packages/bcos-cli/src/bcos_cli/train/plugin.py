"""The losses of this package, registered as those of a plugin are. Imports no torch."""

from collections.abc import Iterable

from bcos_cli.hookspecs import hookimpl
from bcos_cli.spec import LossSpec


@hookimpl
def bcos_cli_losses() -> Iterable[LossSpec]:
    """Return the losses that come with the package."""
    module = "bcos_cli.train.losses"
    yield LossSpec("bce", f"{module}:binary_cross_entropy", summary="binary cross-entropy of every class")
    yield LossSpec(
        "uniform_off_label_bce",
        f"{module}:uniform_off_label_bce",
        summary="binary cross-entropy with targets of at least 1/K",
    )
    yield LossSpec("cross_entropy", f"{module}:cross_entropy", "softmax", "cross-entropy of the softmax")
