"""Text files are UTF-8 wherever the program runs: Windows has other defaults."""

import ast

import pytest

BINARY = ("tarfile", "av", "os", "Image", "zipfile", "_opener()", "webdataset")
"""What has an ``open`` that gives no text."""


def unencoded(source):
    """Lines of calls that open text files with the encoding of the machine."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(word.arg == "encoding" for word in call.keywords):
            continue
        name, _, owner = ast.unparse(call.func)[::-1].partition(".")
        modes = [v.value for v in ast.walk(call) if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        opens = name[::-1] == "open" and owner[::-1] not in BINARY and not any("b" in m and len(m) < 4 for m in modes)
        if opens or (owner and name[::-1] in ("read_text", "write_text")):
            yield call.lineno


def test_text_files_are_opened_as_utf8(root):
    files = [*root.glob("packages/*/src/**/*.py"), *root.glob("examples/**/*.py")]
    assert len(files) > 200
    assert [f"{path}:{line}" for path in files for line in unencoded(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", [1]),
        ("folder.metrics.open('a')", [1]),
        ("open(name)", [1]),
        ("path.write_text(x, encoding='utf-8'); path.open('rb'); read_text(path); tarfile.open(x)", []),
    ],
)
def test_calls_are_recognised(source, found):
    assert list(unencoded(source)) == found
