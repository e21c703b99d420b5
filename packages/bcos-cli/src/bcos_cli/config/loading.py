"""Reading recipes: files, bases, overrides, and mistakes in one line."""

import difflib
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from bcos_cli.config.recipe import Recipe
from bcos_core.errors import BcosError

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def load_recipe(name: str, overrides: list[str] | None = None, *, data: str | None = None) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name: a YAML file, or a name that ``bcos recipes`` lists.
        overrides: ``key=value`` with dotted keys, the values in YAML.
        data: for ``data.path``.

    Raises:
        BcosError: no such recipe, not YAML, or a key or value that does not fit; one line with key, value and
            remedy.
    """
    values = resolve(name)
    for text in overrides or []:
        override(values, text)
    if data is not None:
        _section(values, "data", f"--data {data}")["path"] = data
    return validate_recipe(values, source=name)


def validate_recipe(values: dict[str, Any], source: str) -> Recipe:
    """Check the values of a recipe.

    Raises:
        BcosError: as :func:`load_recipe`.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as reason:
        problems = [_describe(error) for error in reason.errors()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BcosError(f"recipe {source}: {problems[0]}{more}") from reason


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, with every value."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def resolve(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Values of a recipe, merged over those of its ``base``; not yet checked.

    Raises:
        BcosError: no such recipe, one that is its own base, or no YAML.
    """
    from bcos_cli.plugins import recipes

    path = Path(name) if name.endswith((".yaml", ".yml")) else recipes()[name].path
    if str(path) in above:
        raise BcosError(f"the recipe {name} is its own base: {' -> '.join((*above, str(path)))}")
    try:
        values = yaml.safe_load(path.read_text())
    except UnicodeDecodeError as reason:
        raise BcosError(f"the recipe {name} is no text in UTF-8: {reason}") from reason
    except OSError as reason:
        raise BcosError(
            f"cannot read the recipe {name!r}: {reason.strerror}; bcos recipes lists those there are"
        ) from reason
    except yaml.YAMLError as reason:
        raise BcosError(f"the recipe {name} is no YAML: {' '.join(str(reason).split())}") from reason
    if not isinstance(values, dict):
        raise BcosError(f"the recipe {name} must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise BcosError(f"in the recipe {name}, base={base!r} must be the name or the file of another recipe")
    if base.endswith((".yaml", ".yml")):
        base = str(path.parent / base)
    return _merge(resolve(base, (*above, str(path))), values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` on top; a model by name brings its own options."""
    merged = dict(below)
    for key, value in above.items():
        if key == "model" and isinstance(value, dict) and "name" in value:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def override(values: dict[str, Any], given: str) -> None:
    """Set the value that ``key=value`` names, with a dotted key and the value in YAML.

    Raises:
        BcosError: no such form, or a key inside of a value.
    """
    key, equals, text = given.partition("=")
    if not equals or not key.strip():
        raise BcosError(f"an override is written key=value, such as train.epochs=5, got {given!r}")
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and _EXPONENT.fullmatch(value):  # YAML 1.1 reads 1e-3 as text
            value = float(value)
    except yaml.YAMLError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        values = _section(values, section, f"-o {given}")
    values[last] = value


def _section(values: dict[str, Any], name: str, wanted_by: str) -> dict[str, Any]:
    """Return a section, made if it is missing or empty."""
    if values.get(name) is None:
        values[name] = {}
    section = values[name]
    if not isinstance(section, dict):
        raise BcosError(f"{wanted_by}: {name}={section!r} is a value, not a section")
    return section


def _describe(error: Any) -> str:
    """One line: key, value, remedy."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        return f"unknown key {key!r}; {remedy}"
    if error["type"] == "missing":
        return f"{key} is missing; give it a value" + (", or a network with --from" if key == "model" else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    if isinstance(error["input"], dict) and error["type"] == "value_error":  # of a section, whose keys it names
        return message
    message = message[0].lower() + message[1:]
    return f"{key}={error['input']!r}: {message}"


def _known_keys(location: list[str]) -> list[str]:
    section: Any = Recipe
    for part in location:
        annotation = section.model_fields[part].annotation
        section = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)
