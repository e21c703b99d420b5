"""Versions that a run was made with, and the packages that its names came with, beside its recipe. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from bcos_cli.config.recipe import Recipe
from bcos_cli.file_names import VERSIONS_NAME
from bcos_cli.plugins import makers, versions
from bcos_core.errors import BcosError, shown
from bcos_core.files import write_atomically
from bcos_core.plugins import MAKERS
from bcos_core.text import parse_json, read_text

MAX_BYTES = 2**20


def write_versions(folder: Path, recipe: Recipe) -> None:
    """Write the present versions, and the packages of those names in `recipe` that are not ours."""
    used = set(_words(recipe.model_dump(mode="json")))
    named = {kind: {k: v for k, v in names.items() if k in used} for kind, names in makers().items()}
    values = {"versions": versions(), "plugins": {kind: names for kind, names in named.items() if names}}
    write_atomically(folder / VERSIONS_NAME, json.dumps(values, indent=2) + "\n")


def read_versions(folder: Path) -> dict[str, str]:
    """Return the versions that a run was made with, by package; none of a run of an older version of bcos.

    The packages of its names are remembered, for :func:`bcos_core.plugins.unknown` to say.

    Raises:
        BcosError: the file is damaged.
    """
    path = folder / VERSIONS_NAME
    if not path.exists():
        return {}
    try:
        values = parse_json(read_text(path, MAX_BYTES))
        found, plugins = (_mapping(_mapping(values).get(key)) for key in ("versions", "plugins"))
        named = [(kind, name, package) for kind, names in plugins.items() for name, package in _mapping(names).items()]
        if wrong := [
            text for text in (*found.values(), *(package for *_, package in named)) if not isinstance(text, str)
        ]:
            raise BcosError(f"a version is a word, got {shown(wrong[0])}")
    except BcosError as reason:
        raise BcosError(f"{str(path)!r} is damaged: {reason}; remove it") from reason
    MAKERS.update({(kind, name): shown(package) for kind, name, package in named})
    return found


def changed_versions(before: dict[str, str]) -> str:
    """Say which packages have another version than `before`, or are gone; empty where none has."""
    now = versions()
    return ", ".join(
        f"{name} {now.get(name, 'missing')} (then {shown(old, 40).strip(chr(39))})"
        for name, old in before.items()
        if now.get(name) != old
    )


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BcosError(f"it holds mappings, got {shown(value)}")
    return value


def _words(value: object) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    return [word for item in value for word in _words(item)] if isinstance(value, list) else [str(value)]
