"""Our own data sets, registered as a stranger's would be. Imports no torch."""

from collections.abc import Iterable

from bcos_cli.hookspecs import hookimpl
from bcos_cli.spec import DatasetSpec


@hookimpl
def bcos_cli_datasets() -> Iterable[DatasetSpec]:
    """Return the data sets that come with the package."""
    digits = "bcos_cli.data.sources.digits:digits_source"
    yield DatasetSpec("digits", digits, "scikit-learn's digits, 1,797 images of 8×8")
