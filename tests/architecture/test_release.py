"""What a release needs: metadata that agrees, and one place in which the program's package gets its name."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("bcos_release", ROOT / "tools/release.py")
release = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The texts and metadata of the project, to be changed."""
    for pattern in (*release._TEXTS, "packages/*/src/*/__init__.py", "tools/release.py"):
        for path in ROOT.glob(pattern):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "__file__", str(tmp_path / "tools/release.py"))
    return tmp_path


def test_metadata_agree():
    assert list(release.problems_of_metadata()) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("bcos-core/src/bcos_core/__init__.py", '"0.1.0"', '"0.2.0"', "bcos_core.__version__ is not 0.1.0"),
        ("bcos-models/CHANGELOG.md", "## 0.1.0", "## 0.0.9", "the changelog of bcos-models begins with 0.0.9"),
        ("bcos-explain/pyproject.toml", "bcos-core>=0.1,<0.2", "bcos-core>=0.2", "bcos-explain needs bcos-core>=0.2"),
        ("bcos-cli/pyproject.toml", "rich>=13.7", "rich", "bcos-cli needs rich without a bound"),
        ("bcos-cli/pyproject.toml", "/issues", "x/issues", "the address Issues is not of"),
        ("bcos-core/pyproject.toml", "authors = ", "maintainers = ", "bcos-core has no authors"),
    ],
)
def test_what_does_not_agree_is_named(copied, file, old, new, problem):
    path = copied / "packages" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if "issues" not in old else text.replace("bcos-networks/issues", "x/issues"))
    assert any(problem in found for found in release.problems_of_metadata())


def test_the_programs_package_is_renamed_everywhere(copied):
    before = release.texts_with_name(release.PROGRAM)
    assert {"pyproject.toml", "serve.md"} <= {path.name for path in before}
    release.rename("bcos-other")
    assert release.texts_with_name(release.PROGRAM) == {}
    assert release.texts_with_name("bcos-other") == before
    assert 'PROGRAM = "bcos-other"' in (copied / "tools/release.py").read_text()
    assert "pip install 'bcos-other[serve]'" in (copied / "docs/serve.md").read_text()
    assert 'name = "bcos-other"' in (copied / "packages/bcos-cli/pyproject.toml").read_text()
    assert "packages/bcos-cli" in (copied / "README.md").read_text()  # the folder stays
