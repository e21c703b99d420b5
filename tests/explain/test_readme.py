"""What the README shows runs, and everything that has a name is described."""

import re
from pathlib import Path

import pytest

import bcos_explain

README = Path(__file__).parents[2] / "packages" / "bcos-explain" / "README.md"


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
def test_example_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})


def test_every_explainer_and_metric_is_described():
    text = README.read_text()
    for name in (
        *(s.name for s in bcos_explain.explainer_specs() if s.builder.startswith("bcos_explain.")),
        *(s.name for s in bcos_explain.metric_specs() if s.builder.startswith("bcos_explain.")),
    ):
        assert f"`{name}`" in text or f"{name}()" in text, name
