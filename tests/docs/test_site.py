"""What the site generates, or lists by hand, is complete."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("bcos_commands_page", ROOT / "tools/commands_page.py")
commands_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(commands_page)


def test_reference_of_commands_is_that_of_the_program():
    """Where this fails: ``python tools/commands_page.py``."""
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.page()


def test_reference_shows_every_recipe():
    page = (ROOT / "docs/reference/recipes.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"recipes/(\w+)\.yaml", page))
    assert shown == {path.stem for path in ROOT.glob("packages/bcos-cli/src/bcos_cli/recipes/*.yaml")}


def test_reference_has_every_module_of_hooks():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/reference").glob("*.md"))
    for package in ("bcos_models", "bcos_explain", "bcos_cli"):
        assert f"automodule:: {package}.hookspecs" in pages
    assert "automodule:: bcos_core\n" in pages


def test_every_document_has_a_place_on_the_site():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    placed = set(re.findall(r"^(\w[\w/-]*)$", index, re.MULTILINE))
    documents = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").glob("*.md")}
    assert documents - {"index"} <= placed
