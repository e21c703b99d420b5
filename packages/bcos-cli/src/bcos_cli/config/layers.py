"""Files of recipes as they are written: bounded YAML, one above another. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bcos_cli.config.trust import trusts_runs
from bcos_core.documents import read_text
from bcos_core.errors import BcosError, shortened, shown

CONFIG_NAME = "config.yaml"
"""Of the recipe in a run's folder, which is complete."""
MAX_BYTES = 2**20
"""Size of a recipe."""
MAX_DEPTH = 30
"""Levels of its lists and mappings."""
MAX_LAYERS = 20
"""Recipes that may stand below another."""


@dataclass(frozen=True)
class Layer:
    """One file, without the values of its base."""

    path: str
    values: dict[str, Any]
    of_run: bool
    """Whether it is the ``config.yaml`` of a run, which may be a stranger's."""


def read_layers(name: str) -> list[Layer]:
    """Read a recipe and all below it, the lowest first.

    Args:
        name: a YAML file, or a name that ``bcos recipes`` lists.

    Raises:
        BcosError: no such recipe, one that is its own base, a base of a run, or no YAML.
    """
    from bcos_cli.plugins import recipes

    layers: list[Layer] = []
    read: list[Path] = []
    path = Path(name) if name.endswith((".yaml", ".yml")) else recipes()[name].path
    while True:
        if path.resolve() in [above.resolve() for above in read] or len(read) == MAX_LAYERS:
            chain = shortened(" -> ".join(map(str, [*read, path])))
            raise BcosError(f"the recipe {name} is its own base: {chain}")
        read.append(path)
        values = read_yaml(path, name)
        of_run = name.endswith((".yaml", ".yml")) and CONFIG_NAME in (path.name, path.resolve().name)
        base = values.pop("base", None)
        layers.insert(0, Layer(str(path), values, of_run))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise BcosError(f"in the recipe {name}, base={shown(base)} must be the name or the file of another recipe")
        if of_run and not trusts_runs():
            raise BcosError(f"the run's {path} has base={shown(base)}; a run's recipe is complete: remove that line")
        name = str(path.parent / base) if base.endswith((".yaml", ".yml")) else base
        path = Path(name) if base.endswith((".yaml", ".yml")) else recipes()[base].path


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """Read a recipe's file, of whatever keys.

    Raises:
        BcosError: it cannot be read, or is no mapping in YAML.
    """
    try:
        values = load_yaml(read_text(path, MAX_BYTES))
    except OSError as reason:
        raise BcosError(
            f"cannot read the recipe {name!r}: {reason.strerror}; bcos recipes lists those there are"
        ) from reason
    except yaml.YAMLError as reason:
        raise BcosError(f"the recipe {name} is no YAML: {shortened(' '.join(str(reason).split()))}") from reason
    if not isinstance(values, dict):
        from bcos_cli.config.recipe import Recipe

        raise BcosError(f"the recipe {name} must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    return values


def load_yaml(text: str) -> Any:
    """Read YAML that no more comes out of than is written, and in which no key stands twice.

    Raises:
        yaml.YAMLError: it is not.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except (ValueError, OverflowError) as reason:  # a date that there is not, an integer of thousands of digits
        raise yaml.YAMLError(str(reason)) from reason


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, whose few lines can stand for gigabytes, or for themselves."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call] # reason: untyped in PyYAML's stubs
        if isinstance(event, yaml.AliasEvent):
            raise _error("aliases are not read; write the value out", event)
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


def _error(problem: str, where: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)  # type: ignore[arg-type] # reason: PyYAML's stubs know two classes of marks
