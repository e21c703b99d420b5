"""The recipe of a run, for commands that use its network. Imports no torch."""

from pathlib import Path

from bcos_cli.config.load import load_recipe
from bcos_cli.config.recipe import Recipe
from bcos_cli.config.trust import check_trusted
from bcos_cli.file_names import CONFIG_NAME
from bcos_core.address import is_address


def recipe_of(run_or_model: str, *, data: str | None = None) -> Recipe | None:
    """Return the recipe of a run; None for models that are not a run's folder.

    Args:
        run_or_model: as :func:`bcos_models.load_trained` takes it.
        data: location of shards, if the user gave one; None for those of the run.

    Raises:
        BcosError: not a recipe, or data at an address or a cache that only a trusted run may name.
    """
    config = Path(run_or_model) / CONFIG_NAME
    if not config.is_file():
        return None
    recipe = load_recipe(str(config), needs=())
    needs = ["data.path"] if data is None else []
    if is_address(data or recipe.data.path or ""):  # whose shards are copied to the cache
        needs.append("data.cache")
    check_trusted(recipe, str(config), needs=needs, typed=())
    return recipe
