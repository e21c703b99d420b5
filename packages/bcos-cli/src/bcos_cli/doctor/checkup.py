"""All checks of a run; one that fails does not keep the others from running."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from bcos_cli.config import Recipe, load_recipe
from bcos_cli.config.locations import with_absolute_paths
from bcos_cli.data.index import load_index
from bcos_cli.doctor.data import check_batches, check_data, check_pixels
from bcos_cli.doctor.finding import Finding, PlannedRun, problem
from bcos_cli.doctor.machine import check_machine, check_plugins
from bcos_cli.doctor.network import NetworkCheck
from bcos_cli.train.batch_size import with_found_values
from bcos_cli.train.model import with_pixels
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.validation_split import with_validation
from bcos_core.errors import BcosError, first_line


def examine(recipe: Recipe, out: Path, *, processes: int = 1, hashes: bool = False) -> Iterator[Finding]:
    """Check a run before it starts, of a recipe with ``data.path``; nothing is written.

    Raises:
        BcosError: no data, or no index of them.
    """
    uncached = recipe.model_copy(update={"data": recipe.data.model_copy(update={"cache": None})})
    index, config = load_index(recipe.data.location), RunFolder(out).config
    before = load_recipe(str(config), needs=()) if config.exists() else None  # compared, not used
    planned = with_absolute_paths(with_validation(with_pixels(uncached, index), index, before), out)
    run = PlannedRun(with_found_values(planned, before), index, out, processes, hashes)
    network = NetworkCheck(run)
    yield from _findings("plugins", check_plugins())
    yield from _findings("data", check_data(run))
    yield from _findings("pixels", check_pixels(run))
    yield from _findings("batches", check_batches(run))
    yield from _findings("network", network.check())
    yield from _findings("machine", check_machine(run, network.checkpoint_bytes))


def _findings(check: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Name the check in each of its findings; its own failure becomes a problem."""
    try:
        for finding in findings:
            yield replace(finding, check=check)
    except BcosError as reason:
        yield replace(problem(str(reason)), check=check)
    except Exception as reason:  # the user's own network or loss may raise anything
        text = f"{type(reason).__name__}: {first_line(reason)}; bcos train would fail in the same way"
        yield replace(problem(text), check=check)
