"""The notebooks run, and hold what they gave."""

import json
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/tutorials").glob("*.ipynb"))


def cells(notebook):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    for picture in notebook.parent.glob("*.png"):
        shutil.copy(picture, tmp_path)
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names = {"__name__": "__main__"}
    for cell in cells(notebook):
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
    mpl.pyplot.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_what_it_gave(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert "image/png" in text
    assert all(cell["execution_count"] for cell in cells(notebook))
    assert not any(output["output_type"] == "error" for cell in cells(notebook) for output in cell["outputs"])
    assert "/root" not in text
    assert "/work" not in text
    assert len(text) < 1_000_000
