import re
import tomllib
from importlib import import_module
from importlib.metadata import version

import pytest

PACKAGES = ("bcos-core", "bcos-models", "bcos-explain", "bcos-cli")


@pytest.mark.parametrize("package", PACKAGES)
def test_version_is_the_same_in_code_project_metadata_and_changelog(package, root):
    folder = root / "packages" / package
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    heading = re.search(r"^## \[?([\d.]+\w*)", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    module = import_module(package.replace("-", "_"))
    assert heading is not None
    assert {project["version"], module.__version__, heading[1], version(package)} == {project["version"]}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_complete(package, root):
    folder = root / "packages" / package
    assert (folder / "README.md").read_text().strip()
    assert (folder / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()
    assert (folder / "src" / package.replace("-", "_") / "py.typed").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_bounds_on_our_own_packages_take_their_versions(package, root):
    from packaging.requirements import Requirement

    project = tomllib.loads((root / "packages" / package / "pyproject.toml").read_text())["project"]
    ours = [r for r in map(Requirement, project["dependencies"]) if r.name in PACKAGES]
    for requirement in ours:
        assert version(requirement.name) in requirement.specifier
    below = {"bcos-core": 0, "bcos-models": 1, "bcos-explain": 1, "bcos-cli": 3}[package]
    assert len(ours) == below


@pytest.mark.parametrize("package", PACKAGES)
def test_entry_points_name_modules_that_are_there(package, root):
    project = tomllib.loads((root / "packages" / package / "pyproject.toml").read_text())["project"]
    points = project.get("entry-points", {})
    groups = {"bcos-core": set(), "bcos-explain": {"bcos_explain", "bcos_core.display"}}
    assert set(points) == groups.get(package, {package.replace("-", "_")})
    for group in points.values():
        for place in group.values():
            module, _, function = place.partition(":")
            assert getattr(import_module(module), function or "__name__")
