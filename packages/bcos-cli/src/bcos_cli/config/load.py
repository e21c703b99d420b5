"""How a recipe is read: file, bases, overrides, and mistakes in one line."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from bcos_cli.config.locations import with_data_found
from bcos_cli.config.recipe import Recipe
from bcos_cli.config.recipe_layers import dump_yaml, load_yaml, merged, read_layers
from bcos_cli.config.section import section_of
from bcos_cli.config.trust import CHECKS, check_trusted
from bcos_cli.config.versions import read_versions
from bcos_core.errors import BcosError, shortened, shown


def load_recipe(
    name: str,
    overrides: list[str] | None = None,
    *,
    data: str | None = None,
    given: Mapping[str, Any] | None = None,
    needs: Collection[str] = tuple(CHECKS),
) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name: a YAML file, or the name of a recipe or a model that ``bcos recipes`` lists.
        overrides: ``key=value`` with dotted keys, the values in YAML.
        data: for ``data.path``.
        given: values by dotted key, as they are, below the overrides.
        needs: keys of ``bcos_cli.config.trust.CHECKS`` that are going to be used, and must be trusted where a run
            sets them; by default all.

    Raises:
        BcosError: no such recipe, not YAML, a key or value that does not fit, or a run's value that is not trusted;
            one line with key, value and remedy.
    """
    layers = read_layers(name)
    values = merged(layers)
    for key, value in (given or {}).items():
        _set(values, key, value, f"{key}={shown(value)}")
    typed = [*(given or {}), *(override(values, text) for text in overrides or [])]
    if data is not None:
        _set(values, "data.path", data, f"--data {data}")
        typed.append("data.path")
    if layers[0].of_run:
        read_versions(Path(layers[0].path).parent)  # which package had a name that is not there any more
    recipe = validate_recipe(values, source=name)
    if layers[0].of_run and "data.path" not in typed:
        recipe = with_data_found(recipe, Path(layers[0].path).parent)
    if layers[0].of_run:
        above = [key for key in CHECKS if any(_has(layer.values, key) for layer in layers[1:])]
        check_trusted(recipe, layers[0].path, needs=needs, typed=[*typed, *above])
    return recipe


def validate_recipe(values: dict[str, Any], source: str) -> Recipe:
    """Check the values of a recipe; errors are those of :func:`load_recipe`."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as reason:
        problems = [_describe(error) for error in reason.errors()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BcosError(f"recipe {source}: {shortened(problems[0])}{more}") from reason


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, with every value."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _has(values: dict[str, Any], key: str) -> bool:
    """Whether a dotted key has a value."""
    section, _, inner = key.partition(".")
    found = values.get(section)
    return section in values if not inner else isinstance(found, dict) and inner in found


def override(values: dict[str, Any], given: str) -> str:
    """Set the value that ``key=value`` names, with a dotted key and the value in YAML; return the key.

    Raises:
        BcosError: no such form, or a key inside of a value.
    """
    key, equals, text = given.partition("=")
    if not equals or not key.strip():
        raise BcosError(f"an override is written key=value, such as train.epochs=5, got {shown(given)}")
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        value = text
    _set(values, key.strip(), value, f"-o {shortened(given)}")
    return key.strip()


def _set(values: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set the value of a dotted key."""
    *sections, last = key.split(".")
    for section in sections:
        values = _section(values, section, source)
    values[last] = value


def _section(values: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    """Return a section, made if it is missing or empty."""
    if values.get(name) is None:
        values[name] = {}
    section = values[name]
    if not isinstance(section, dict):
        raise BcosError(f"{source}: {name}={shown(section)} is a value, not a section")
    return section


def _describe(error: Any) -> str:
    """One line: key, value, remedy."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        inside = [dotted for dotted in _dotted_keys(Recipe) if dotted.rpartition(".")[2] == location[-1]]
        close = inside or difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {' or '.join(map(repr, close[:3]))}?" if close else f"the keys are {', '.join(known)}"
        return f"unknown key {shown(key)}; {remedy}"
    if error["type"] == "missing":
        return f"{key} is missing; give it a value" + (", or a network with --from" if key == "model" else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    if isinstance(error["input"], dict) and error["type"] == "value_error":  # of a section, whose keys it names
        return message
    message = message[0].lower() + message[1:]
    return f"{shortened(key, 100)}={shown(error['input'])}: {message}"


def _dotted_keys(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield every key of a section and of those in it, with dots."""
    for key in section.model_fields:
        if (inner := section_of(section, key)) is None:
            yield f"{above}{key}"
        else:
            yield from _dotted_keys(inner, f"{above}{key}.")


def _known_keys(location: list[str]) -> list[str]:
    section: type[BaseModel] | None = Recipe
    for part in location:
        section = section_of(section, part) if section else None
    return list(section.model_fields) if section else []
