"""Recipes as they are written: bounded YAML, one file above another, a model by its name. Imports no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bcos_cli.config.trust import trusts_runs
from bcos_cli.file_names import CONFIG_NAME
from bcos_core.errors import BcosError, shortened, shown
from bcos_core.plugins import suggestion
from bcos_core.text import read_text

"""The recipe in a run's folder, which is complete."""
MAX_BYTES = 2**20
"""Size of a recipe."""
MAX_DEPTH = 30
"""Levels of its lists and mappings."""
MAX_LAYERS = 20
"""Recipes that may stand below another."""


@dataclass(frozen=True)
class Layer:
    """Values that one file or name sets, without those of its base."""

    path: str
    values: dict[str, Any]
    of_run: bool = False
    """Whether it is the ``config.yaml`` of a run, which somebody else may have written."""


def read_layers(name: str, above: tuple[str, ...] = ()) -> list[Layer]:
    """Read a recipe, which a file, its own name or that of a model names, and all below it, the lowest first.

    Raises:
        BcosError: no such recipe, one that is its own base, a base of a run, or a file that is not YAML.
    """
    from bcos_cli.plugins import recipes

    is_file = name.endswith((".yaml", ".yml"))
    if not is_file and name not in recipes().names():
        return _layers_of_model(name, above)
    path = Path(name) if is_file else recipes()[name].path
    if path.resolve() in [Path(other).resolve() for other in above] or len(above) == MAX_LAYERS:
        chain = shortened(" -> ".join([*above, str(path)]))
        raise BcosError(f"the recipe {name} is its own base: {chain}")
    values = read_yaml(path, name)
    of_run = is_file and CONFIG_NAME in (path.name, path.resolve().name)
    base = values.pop("base", None)
    layer = Layer(str(path), values, of_run)
    if base is None:
        return [layer]
    if not isinstance(base, str):
        raise BcosError(f"in the recipe {name}, base={shown(base)} must be the name or the file of another recipe")
    if of_run and not trusts_runs():
        raise BcosError(f"the run's {path} has base={shown(base)}; a run's recipe is complete: remove that line")
    below = str(path.parent / base) if base.endswith((".yaml", ".yml")) else base
    return [*read_layers(below, (*above, str(path))), layer]


def _layers_of_model(name: str, above: tuple[str, ...]) -> list[Layer]:
    """Read the recipe that a model names, with that model in place of its own; also by a former name."""
    from bcos_cli.plugins import recipes
    from bcos_cli.recipes.former_names import base_of_former
    from bcos_models import get_spec, is_model, list_models

    if is_model(name):
        recipe = get_spec(name).recipe
        if recipe is None:
            raise BcosError(
                f"the model {name!r} does not name a recipe it is trained with; give one that bcos recipes lists, and "
                f"-o model.name={name}"
            )
        layers = read_layers(recipe, (*above, name))
        model = merged(layers).get("model")
        kept = {key: value for key, value in model.items() if key != "options"} if isinstance(model, dict) else {}
        return [*layers, Layer(name, {"model": {**kept, "name": name}})]
    former = base_of_former(name)
    if former is None:
        raise BcosError(f"there is no recipe {shown(name)}; {suggestion(name, [*recipes().names(), *list_models()])}")
    base, options = former
    return [*read_layers(base, above), Layer(name, {"model": {"options": options}} if options else {})]


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the values of a recipe and of those below it, the lowest first."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = _merge(values, layer.values)
    return values


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


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """Read the file of a recipe, a mapping in YAML, or refuse it; its keys are not checked."""
    try:
        values = load_yaml(read_text(path, MAX_BYTES))
    except OSError as reason:
        raise BcosError(
            f"cannot read the recipe {name!r}: {reason.strerror}; bcos recipes lists those there are"
        ) from reason
    except yaml.YAMLError as reason:
        raise BcosError(f"the recipe {name} is not YAML: {shortened(' '.join(str(reason).split()))}") from reason
    if not isinstance(values, dict):
        from bcos_cli.config.recipe import Recipe

        raise BcosError(f"the recipe {name} must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    return values


def load_yaml(text: str) -> Any:
    """Read YAML that expands to no more than is written, and has no key twice; ``yaml.YAMLError`` for anything else."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, OverflowError) as reason:  # an integer of thousands of digits
        raise yaml.YAMLError(str(reason)) from reason


def dump_yaml(values: Any, **options: Any) -> str:
    """Return YAML that :func:`load_yaml`, and a program that reads YAML 1.1, take for the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, **options)
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without tags, and without aliases, whose few lines can stand for gigabytes.

    Words have the meaning of YAML 1.2's core schema. In YAML 1.1, PyYAML's, ``no`` is false, 010 is 8, 1:30 is 90,
    2020-01-01 a date and 1e-3 a word.
    """

    yaml_implicit_resolvers: dict[Any, Any] = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call] # reason: untyped in PyYAML's stubs
        if isinstance(event, yaml.AliasEvent):
            raise _error("aliases are not read; write the value out", event)
        if (tag := getattr(event, "tag", None)) is not None:  # a type that its value may not fit, or none of a recipe's
            raise _error(f"tags are not read; leave out {shown(tag)}", event)
        if self.depth > MAX_DEPTH:
            raise _error(f"more than {MAX_DEPTH} levels", event)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise _error(f"the key {shown(key.value)} is given twice, also in line {lines[key.value]}", key)
            lines[key.value] = key.start_mark.line + 1
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Read an integer of the core schema, in which only 0x and 0o are prefixes."""
        return int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes words that have another meaning in the core schema too."""


_CORE = {  # YAML 1.2.2, section 10.3.2, with the characters that may come first
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}
for _name, (_words, _first) in _CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_words})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def _error(problem: str, where: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)  # type: ignore[arg-type] # reason: PyYAML's stubs know two classes of marks
