"""A stranger's package in a fresh environment: found by its entry point alone, trained, explained."""

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
