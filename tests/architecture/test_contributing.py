"""CONTRIBUTING.md names every folder, and its table of changes names files that define what it says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def rows(title):
    """Cells of the table below a heading."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


CHANGES = rows("To change X, open Y")


def defined(path):
    """Names that a Python file defines, members of classes as ``Class.member``."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n}" for member in node.body for n in names_of(member)}
        names |= names_of(node)
    return names


def names_of(node):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(("change", "path", "name"), CHANGES, ids=[row[0] for row in CHANGES])
def test_file_of_a_change_exists_and_defines_the_name(change, path, name):
    file = ROOT / path.strip("`")
    assert file.is_file()
    assert name.strip("`") in defined(file)


def test_there_are_twenty_changes():
    assert len(CHANGES) >= 20


def test_every_folder_has_a_line_on_the_map():
    told = set(re.findall(r"`([\w./-]+/)`", "\n".join(row[0] for row in rows("Map"))))
    folders = set()
    for package in sorted((ROOT / "packages").glob("*/src/*")):
        folders |= {f"{p.relative_to(ROOT)}/" for p in package.rglob("*") if p.is_dir() and any(p.glob("*.py"))}
        folders.add(f"{package.relative_to(ROOT)}/")
    folders |= {f"tests/{p.name}/" for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    folders |= {f"{name}/" for name in ("examples", "benchmarks", "docs", "tools")}
    folders = {f for f in folders if not f.endswith((".egg-info/", "__pycache__/"))}
    assert folders == told
