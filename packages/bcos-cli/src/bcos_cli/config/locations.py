"""Paths of a recipe that hold wherever a run is used from, and after it was moved together with its data.

Imports no torch.
"""

import os
from pathlib import Path
from typing import Any

from bcos_cli.config.recipe import Recipe
from bcos_core.address import is_address


def absolute(location: str) -> str:
    """Return a local path from the root; an address as it is."""
    return location if is_address(location) else str(Path(location).resolve())


def with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe as the run in `folder` stores it, its local paths from the root instead of as they were typed.

    ``data.path_from_run`` is added, the way from the folder to the data.
    """
    data, start = recipe.data, recipe.model.start
    changes: dict[str, Any] = {"path_from_run": None}
    if data.cache is not None:
        changes["cache"] = absolute(data.cache)
    if data.path is not None:
        changes["path"] = absolute(data.path)
        if not is_address(data.path):
            changes["path_from_run"] = os.path.relpath(changes["path"], folder.resolve())
    sections: dict[str, Any] = {"data": data.model_copy(update=changes)}
    named = {"start": start, "weights": recipe.model.weights}
    sections["model"] = recipe.model.model_copy(update={key: _file(value) for key, value in named.items()})
    if recipe.distillation is not None:
        teacher = _file(recipe.distillation.teacher)
        sections["distillation"] = recipe.distillation.model_copy(update={"teacher": teacher})
    return recipe.model_copy(update=sections)


def with_data_found(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe that the run in `folder` stores with the data at the way from there, if they have moved too."""
    path, way = recipe.data.path, recipe.data.path_from_run
    if path is None or way is None or is_address(path) or is_address(way) or Path(path).exists():
        return recipe
    found = (folder / way).resolve()
    if not found.exists():
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(found)})})


def _file(name: str | None) -> str | None:
    """Return the absolute path of what may be a file, a folder, an address or a model's name."""
    from bcos_models import is_model

    if name is None or is_address(name) or not Path(name).exists() or is_model(name):
        return name
    return str(Path(name).resolve())
