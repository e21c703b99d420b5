"""What a release needs: ``nox -s release-check`` calls ``check``; ``rename NAME`` names the program's package.

``python tools/release.py check WHEELS AGAIN`` takes the folder of what was built, and one of wheels that were built
from its source distributions.
"""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/bcos-networks/bcos-networks"
"""Where the project is hosted; every address in metadata begins with it."""
PROGRAM = "bcos-cli"
"""Name under which the registry has the program's package."""
FALLBACK = "bcos-toolkit"
"""The name to take if the registry refuses the other."""
FOLDERS = ("bcos-core", "bcos-models", "bcos-explain", "bcos-cli")
_TEXTS = (
    *("pyproject.toml", "README.md", "CITATION.cff", "RELEASING.md", "SECURITY.md"),
    *("docs/*.md", "packages/*/*.md", "packages/*/pyproject.toml"),
)
"""Files in which the name of the program's package is written."""
_NAMED = re.compile(r"(?<![\w/-])NAME(?=\[|\"|'|`|,| (?:=|bcos)|$)", re.MULTILINE)


def projects() -> dict[str, dict[str, Any]]:
    """The table ``project`` of each package, by folder."""
    paths = {folder: ROOT / "packages" / folder / "pyproject.toml" for folder in FOLDERS}
    return {f: tomllib.loads(path.read_text(encoding="utf-8"))["project"] for f, path in paths.items()}


def problems_of_metadata() -> Iterator[str]:
    """What is wrong with versions, changelogs, bounds, addresses and tags."""
    found = projects()
    versions = {project["name"]: project["version"] for project in found.values()}
    if found["bcos-cli"]["name"] != PROGRAM:
        yield f"packages/bcos-cli is named {found['bcos-cli']['name']}, PROGRAM is {PROGRAM}"
    for folder, project in found.items():
        module = folder.replace("-", "_")
        source = (ROOT / "packages" / folder / "src" / module / "__init__.py").read_text(encoding="utf-8")
        if f'__version__ = "{project["version"]}"' not in source:
            yield f"{module}.__version__ is not {project['version']}"
        changelog = (ROOT / "packages" / folder / "CHANGELOG.md").read_text(encoding="utf-8")
        newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
        if newest is None or newest[1] != project["version"]:
            yield f"the changelog of {folder} begins with {newest and newest[1]}, its version is {project['version']}"
        for need in map(Requirement, project["dependencies"]):
            if need.name in versions and versions[need.name] not in need.specifier:
                yield f"{folder} needs {need}, which is {versions[need.name]} here"
            if not need.specifier:
                yield f"{folder} needs {need.name} without a bound"
        for key in ("authors", "urls", "classifiers", "keywords"):
            if not project.get(key):
                yield f"{folder} has no {key}"
        for name, url in project.get("urls", {}).items():
            if not url.startswith(REPOSITORY):
                yield f"{folder}: the address {name} is not of {REPOSITORY}"
        yield from _problems_of_tag(folder, project["version"])


def _problems_of_tag(folder: str, version: str) -> Iterator[str]:
    """A commit that has a tag of this package must have that of its version."""
    done = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", f"{folder}-v*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for tag in done.stdout.split():
        if tag != f"{folder}-v{version}":
            yield f"this commit has the tag {tag}, the version of {folder} is {version}"


def problems_of_wheels(built: Path, again: Path) -> Iterator[str]:
    """What is wrong with wheels: links that lead nowhere on the registry, files that a source distribution lacks."""
    for name in (canonicalize_name(project["name"]).replace("-", "_") for project in projects().values()):
        wheels = [next(folder.glob(f"{name}-*.whl"), None) for folder in (built, again)]
        if None in wheels:
            yield f"there is no wheel of {name} in {built if wheels[0] is None else again}"
            continue
        first, second = (_contents(wheel) for wheel in wheels if wheel is not None)
        for file in sorted(first.keys() | second.keys()):
            if first.get(file) != second.get(file):
                yield f"{name}: {file} differs between the wheel and that of its source distribution"
        description = next(text for key, text in first.items() if key.endswith("METADATA")).decode()
        for target in re.findall(r"\]\(([^)#\s]+)", description):
            if "://" not in target:
                yield f"{name}: the link to {target} leads nowhere on the registry"


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def texts_with_name(name: str) -> dict[Path, int]:
    """The files in which a package is named, and how often."""
    pattern = re.compile(_NAMED.pattern.replace("NAME", re.escape(name)), re.MULTILINE)
    found = {}
    for path in sorted(path for text in _TEXTS for path in ROOT.glob(text)):
        if count := len(pattern.findall(path.read_text(encoding="utf-8"))):
            found[path] = count
    return found


def rename(new: str) -> None:
    """Name the program's package anew, here and in all texts; its folder and what is imported stay."""
    pattern = re.compile(_NAMED.pattern.replace("NAME", re.escape(PROGRAM)), re.MULTILINE)
    for path in [*texts_with_name(PROGRAM), Path(__file__)]:
        path.write_text(pattern.sub(new, path.read_text(encoding="utf-8")), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Check, or rename."""
    match arguments:
        case ["check", built, again]:
            found = [*problems_of_metadata(), *problems_of_wheels(Path(built), Path(again))]
            print("\n".join(found) or "ready for a release")
            sys.exit(bool(found))
        case ["rename", name]:
            rename(name)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
