"""The documents are true: their Python runs, their links lead somewhere, their YAML is a recipe."""

import inspect
import re
import types
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from braceexpand import braceexpand

from bcos_core.rules.table import RULES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "packages/*/*.md", "docs/*.md", "examples/*/*.md") for path in ROOT.glob(pattern)
)


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


SLOW = {"search.md", "export.md"}
"""Documents whose examples train or compile networks."""


def cases(language):
    return [
        pytest.param(
            block,
            id=f"{document.relative_to(ROOT)}-{i}",
            marks=pytest.mark.slow if language == "python" and document.name in SLOW else (),
        )
        for document in DOCUMENTS
        for i, block in enumerate(blocks(document, language))
    ]


@pytest.mark.parametrize("code", cases("python"))
def test_python_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rules = dict(RULES)
    try:
        exec(compile(code, "example", "exec"), {"__name__": "example"})
    finally:  # an example may have registered rules
        RULES.clear()
        RULES.update(rules)


PLUGINS = [case for case in cases("python") if "@hookimpl" in case.values[0]]
GROUPS = ("bcos_models", "bcos_explain", "bcos_cli")


def marked(value):
    return [group for group in GROUPS if hasattr(value, f"{group}_impl")]


@pytest.mark.parametrize("code", PLUGINS)
def test_examples_with_hooks_are_plugins_that_work(code, stranger):
    from bcos_cli.evaluate.metrics import explanation_metrics
    from bcos_cli.main import build_app
    from bcos_cli.plugins import all_plugins

    plugin = types.ModuleType("example")
    plugin.__file__ = "/example.py"
    exec(compile(code, "example", "exec"), vars(plugin))
    groups = {group for value in vars(plugin).values() for group in marked(value)}
    stranger(**dict.fromkeys(groups, plugin))
    explanation_metrics()
    build_app()
    theirs = {info.group: info.error for info in all_plugins() if info.distribution == "stranger"}
    assert theirs == dict.fromkeys(groups)


def hooks():
    """Every hook, with the signature that its specification has."""
    for group in GROUPS:
        module = import_module(f"{group}.hookspecs")
        for name, function in vars(module).items():
            if hasattr(function, f"{group}_spec"):
                signature = inspect.signature(function)
                returned = str(signature.return_annotation)
                for home in ("collections.abc.", "typing.", *(f"{g}.spec." for g in GROUPS), "bcos_models.conversion."):
                    returned = returned.replace(home, "")
                yield f"`{name}({', '.join(signature.parameters)}) -> {returned}`"


def test_page_of_plugins_names_every_hook_with_its_signature():
    page = (ROOT / "docs/plugins.md").read_text()
    found = list(hooks())
    assert len(found) == 10
    assert [hook for hook in found if hook not in page] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_relative_links_and_pictures_exist(document):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("text", cases("yaml"))
def test_yaml_examples_are_recipes(text, tmp_path):
    from bcos_cli.config import load_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert yaml.safe_load(text)
    assert load_recipe(str(path)).model.name


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`bcos ([a-z]+)", (ROOT / "README.md").read_text()))))
def test_commands_that_the_readme_names_exist(command):
    from bcos_cli.main import run

    assert run([command, "--help"]) == 0


@pytest.mark.parametrize("test", re.findall(r"`(tests/\S+\.py::\w+)`", (ROOT / "docs/security.md").read_text()))
def test_tests_that_hold_a_line_of_defence_exist(test):
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_tables_of_models_name_what_is_registered():
    from bcos_models import list_models

    table = (ROOT / "packages/bcos-models/README.md").read_text().split("| family |")[1].split("\n\n")[0]
    named = [name for listing in re.findall(r"`(\S+)`", table) for name in braceexpand(listing)]
    assert sorted(named) == list_models()
