"""A stranger's package, with one of each: found by its entry points alone, trained, scored, explained."""

import contextlib
import io
import json
import tomllib
from importlib.metadata import EntryPoint

import pytest
import torch

from bcos_core import explain
from bcos_models import load_trained

SCRIPT = """
import torch
from bcos_core import AddInverse, explain
from bcos_core.losses import BinaryCrossEntropyLoss
from bcos_models import create_model, get_spec, list_models

assert "allconv_mini" in list_models()
assert "resnet50" in list_models()
torch.manual_seed(0)
spec = get_spec("allconv_mini")
model = create_model("allconv_mini").double()
x = AddInverse()(torch.rand(4, 3, spec.input.size, spec.input.size, dtype=torch.float64))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
losses = []
for _ in range(2):
    loss = BinaryCrossEntropyLoss()(model(x), torch.arange(4))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
assert losses[1] < losses[0], losses
e = explain(model.eval(), x, [[0, 9]] * 4)
scale = e.contributions.abs().flatten(2).sum(-1) + e.score.abs()
assert ((e.map.sum((-1, -2)) + e.bias - e.score).abs() <= 1e-9 * scale).all()
assert e.contributions.abs().sum() > 1e-3
assert torch.equal(e.logits, model(x))
print(create_model("allconv_mini", num_classes=3, b=1.5)(x.float()).shape[1])
"""


def test_example_plugin_is_installed_listed_trained_and_explained(root, fresh_environment, tmp_path):
    paths = [
        root / "packages/bcos-core",
        root / "packages/bcos-models",
        root / "examples/bcos-plugin-allconv",
    ]
    run = fresh_environment(*paths)
    (tmp_path / "use.py").write_text(SCRIPT)
    assert run("use.py").strip() == "3"
    listing = "import sys; from bcos_models import list_models;print(list_models('allconv*'), 'torch' in sys.modules)"
    assert run("-c", listing).strip() == "['allconv_mini'] False"


@pytest.fixture
def example(root, stranger, monkeypatch, tmp_path):
    """The program with the example, installed in this process; returns status and output of a command."""
    folder = root / "examples/bcos-plugin-allconv"
    monkeypatch.syspath_prepend(folder / "src")
    monkeypatch.chdir(tmp_path)
    groups = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    entries = [EntryPoint(name, value, group) for group, of in groups.items() for name, value in of.items()]
    stranger(distribution="bcos-plugin-allconv", **{entry.group: entry.load() for entry in entries})

    def bcos(*arguments):
        from bcos_cli.main import run

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run([str(a) for a in arguments])
        assert status == 0, err.getvalue()
        return out.getvalue()

    return bcos


def test_example_has_one_of_each_and_all_of_it_works(example, root):
    rows = json.loads(example("plugins", "--json"))
    theirs = {row["group"]: row["error"] for row in rows if row["distribution"] == "bcos-plugin-allconv"}
    assert theirs == dict.fromkeys(["bcos_core", "bcos_models", "bcos_explain", "bcos_cli"])
    listed = {
        "models": "allconv_mini",
        "explainers": "squared_gradient",
        "metrics": "eccentricity",
        "recipes": "allconv_stripes",
    }
    for command, name in listed.items():
        assert name in [row["name"] for row in json.loads(example(command, "--json"))]
    assert example("parameters", "allconv_mini").strip() == "73,152"
    readme = (root / "examples/bcos-plugin-allconv/README.md").read_text()
    assert all(
        f"`{name}`" in readme for name in [*listed.values(), "stripes", "focal", "bcos parameters", "torch.sinc"]
    )


def test_example_is_packed_trained_scored_and_explained(example, tmp_path):
    example("shards", "pack", "stripes", "shards")
    run = ["--out", "run", "-o", "data.workers=0", "-o", "evaluation.gridpg_grids=0", "-o", "train.explained_images=0"]
    example("train", "allconv_stripes", "--data", "shards", *run)
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    assert scores["top1"] > 0.5
    assert 0 < scores["eccentricity/squared_gradient"] < 0.5
    trained = load_trained("run")
    x = trained.encode(torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0)))
    e = explain(trained.model.double(), x.double())  # with the rule: torch.sinc has none of ours
    torch.testing.assert_close(e.map.sum((-1, -2)) + e.bias, e.score)
    named = json.loads((tmp_path / "run" / "versions.json").read_text())["plugins"]
    assert {kind: list(names) for kind, names in named.items()} == {
        "model": ["allconv_mini"],
        "loss": ["focal"],
        "explainer": ["squared_gradient"],
        "metric": ["eccentricity"],
    }
