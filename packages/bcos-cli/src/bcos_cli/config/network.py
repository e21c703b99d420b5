"""The network that a user names: options of every command that uses one. Imports no torch until it is loaded."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from unicodedata import normalize

import typer

from bcos_cli.config.trust import trusts_runs
from bcos_core.errors import BcosError

if TYPE_CHECKING:
    from bcos_models import TrainedModel

RunOrModel = Annotated[str, typer.Argument(help="Folder or weights file of a run, or a model, such as timm/resnet50.")]
Weights = Annotated[
    str | None, typer.Option(help="A .safetensors or .pth file, of any number of classes, for a model by name.")
]
ClassFile = Annotated[
    Path | None, typer.Option("--classes", help="File with the names of the network's outputs, one in each line.")
]


def load_network(
    run_or_model: str,
    weights: str | None = None,
    classes: Path | None = None,
    *,
    range: tuple[float, float] | None = None,
) -> "TrainedModel":
    """Load what a user names, with the names of its outputs from a file if one is given.

    Args:
        range: the values that are black and white in images of more than 8 bits; None for those of the network.

    Raises:
        BcosError: as :func:`bcos_models.load_trained`, or a file that cannot be read or has other names than outputs.
    """
    from bcos_models import load_trained

    names = None if classes is None else read_classes(classes)
    trained = load_trained(run_or_model, weights, classes=names, trust=trusts_runs())
    if range is not None:
        trained.config = replace(trained.config, input=replace(trained.input, range=range))
    return trained


def read_classes(path: Path) -> list[str]:
    """Read the names of classes, one in each line of a file; refuse one that cannot be read, or is not text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        raise BcosError(f"cannot read the names of classes in {str(path)!r}: {reason}") from reason
    return [normalize("NFC", line.strip()) for line in lines if line.strip()]  # as class names of shards are
