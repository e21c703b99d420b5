import json

import pytest

from bcos_models import get_spec, list_models


def test_models_are_listed_with_parameters_and_input(bcos):
    status, out, err = bcos("models", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [r["name"] for r in rows] == list_models()
    for row in rows:
        spec = get_spec(row["name"])
        assert (row["params"], row["input_size"], row["classes"]) == (
            spec.params,
            spec.input.size,
            spec.num_classes,
        )
        assert row["input_channels"] == spec.input.encoded_channels


def test_models_are_filtered(bcos, line):
    status, out, _ = bcos("models", "standard_*20")
    assert status == 0
    assert "standard_cifar10_resnet20" in out
    assert "0.27 M" in out
    assert "resnet32" not in out
    assert json.loads(bcos("models", "nosuch*", "--json")[1]) == []
    assert "no model matches 'nosuch*'; bcos models lists all" in line(bcos("models", "nosuch*"))
    assert "'*_resnet20*' matches" in line(bcos("models", "_resnet20"))


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("recipes", {"digits", "cifar10_resnet20", "standard_cifar10_resnet20"}),
        ("explainers", {"bcos", "input_x_gradient", "integrated_gradients", "gradcam"}),
        ("metrics", {"top1", "top5", "loss", "calibration_error", "gridpg"}),
    ],
)
def test_what_there_is_is_listed_with_a_summary(command, names, bcos):
    status, out, _ = bcos(command, "--json")
    rows = json.loads(out)
    assert status == 0
    assert names <= {r["name"] for r in rows}
    assert all(r["summary"] for r in rows)
    table = bcos(command)[1]
    assert all(name in table for name in names)


def test_plugins_of_every_group_are_listed_and_work(bcos):
    status, out, _ = bcos("plugins", "--json")
    rows = json.loads(out)
    assert status == 0
    assert {r["group"] for r in rows} == {"bcos_models", "bcos_explain", "bcos_cli"}
    assert [r["name"] for r in rows if r["error"]] == []
    assert "bcos-models:resnet" in bcos("plugins")[1]
