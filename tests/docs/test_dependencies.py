"""The page of dependencies names what the packages declare, and for which of them."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def declared() -> dict[str, set[str]]:
    """Every library, and the packages that need it, without ours."""
    needed: dict[str, set[str]] = {}
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        package = project["name"].removeprefix("bcos-")
        extras = [need for needs in project.get("optional-dependencies", {}).values() for need in needs]
        for need in [*project["dependencies"], *extras]:
            name = re.split(r"[\[<>=!~ ;]", need)[0]
            if not name.startswith("bcos-"):
                needed.setdefault(name, set()).add(package)
    return needed


def test_page_of_dependencies_names_what_is_declared() -> None:
    rows = re.findall(r"^\| ([\w, -]+) \| ([\w, `-]+) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    named: dict[str, set[str]] = {}
    for libraries, packages in rows[1:]:
        users = set(re.findall(r"core|models|explain|cli|all", packages))
        for library in libraries.split(", "):
            named[library] = {"core", "models", "explain", "cli"} if users == {"all"} else users
    assert named == declared()
