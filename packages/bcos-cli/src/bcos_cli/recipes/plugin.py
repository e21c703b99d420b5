"""Our own recipes, registered as those of any plugin. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from bcos_cli.hookspecs import hookimpl
from bcos_cli.spec import RecipeSpec


@hookimpl
def bcos_cli_recipes() -> Iterable[RecipeSpec]:
    """Return every YAML file of ours; its first comment line is the summary."""
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        yield RecipeSpec(path.stem, path, first.removeprefix("#").strip())
