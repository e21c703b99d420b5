"""Our own recipes and data sets, registered as a stranger's would be. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from bcos_cli.hookspecs import hookimpl
from bcos_cli.spec import DatasetSpec, LossSpec, RecipeSpec

_RECIPES = Path(__file__).parent / "recipes"


@hookimpl
def bcos_cli_recipes() -> Iterable[RecipeSpec]:
    """Return every YAML file of ours; its first comment line is the summary."""
    for path in sorted(_RECIPES.glob("*.yaml")):
        first = path.read_text().partition("\n")[0]
        yield RecipeSpec(path.stem, path, first.removeprefix("#").strip())


@hookimpl
def bcos_cli_datasets() -> Iterable[DatasetSpec]:
    """Return the data sets that come with the package."""
    yield DatasetSpec("digits", "bcos_cli.data.digits:digits_source", "scikit-learn's digits, 1,797 images of 8×8")


@hookimpl
def bcos_cli_losses() -> Iterable[LossSpec]:
    """Return the losses that come with the package."""
    module = "bcos_cli.training.losses"
    yield LossSpec("bce", f"{module}:binary_cross_entropy", summary="binary cross-entropy of every class")
    yield LossSpec(
        "uniform_off_label_bce",
        f"{module}:uniform_off_label_bce",
        summary="binary cross-entropy with targets of at least 1/K",
    )
    yield LossSpec("cross_entropy", f"{module}:cross_entropy", "softmax", "cross-entropy of the softmax")
