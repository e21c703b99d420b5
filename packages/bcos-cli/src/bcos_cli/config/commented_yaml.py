"""Complete recipes as YAML, with a comment that explains each key. Imports no torch."""

from typing import Any

from pydantic import BaseModel

from bcos_cli.config.load import override, validate_recipe
from bcos_cli.config.recipe import Recipe
from bcos_cli.config.recipe_layers import dump_yaml, merged, read_layers
from bcos_cli.config.section import section_of

_ANY_NETWORK = "NETWORK"
"""Stands for the network of a recipe that leaves it to ``--from``."""
_WIDTH = 10_000


def complete(name: str, overrides: list[str]) -> dict[str, Any]:
    """Return all values of a recipe; one that works on any network, or with any teacher, is complete without it.

    Raises:
        BcosError: no such recipe, or values that do not fit.
    """
    values = merged(read_layers(name))
    for text in overrides:
        override(values, text)
    model, distillation = values.setdefault("model", {}), values.get("distillation")
    left_open: list[tuple[str, str]] = []
    if isinstance(model, dict) and not model.keys() & {"name", "start"}:
        left_open.append(("model", "start"))
    if isinstance(distillation, dict) and "teacher" not in distillation:
        left_open.append(("distillation", "teacher"))
    for section, key in left_open:
        values[section][key] = _ANY_NETWORK
    found = validate_recipe(values, source=name).model_dump(mode="json")
    for section, key in left_open:
        found[section][key] = None
    return found


def commented_yaml(values: dict[str, Any]) -> str:
    """Return the YAML of a complete recipe, with a comment that explains each section and key."""
    lines: list[str] = []
    for key, value in values.items():
        section = section_of(Recipe, key)
        if section is not None:
            lines += ["", *_comment(section.__doc__ or "", "")]
        lines += _entry(key, value, section, "")
    return "\n".join(lines).lstrip("\n") + "\n"


def _entry(key: str, value: Any, section: type[BaseModel] | None, indent: str) -> list[str]:
    if section is None or not isinstance(value, dict):
        if isinstance(value, dict | list):
            return [f"{indent}{key}: {_dump(value, flow=True)}"]
        return [f"{indent}{_dump({key: value}, flow=False)}"]
    lines = [f"{indent}{key}:"]
    for name, inner in value.items():
        field = section.model_fields.get(name)
        if field is not None and field.description:
            lines += _comment(field.description, f"{indent}  ")
        lines += _entry(name, inner, section_of(section, name), f"{indent}  ")
    return lines


def _dump(value: Any, flow: bool) -> str:
    return dump_yaml(value, default_flow_style=flow, width=_WIDTH).rstrip()


def _comment(text: str, indent: str) -> list[str]:
    first = " ".join(text.strip().split("\n\n")[0].split()).replace("``", "")
    return [f"{indent}# {first}"]
