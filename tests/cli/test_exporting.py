"""``bcos export``: from a run's folder to one file."""

import importlib.util
import json

import pytest
import torch

from bcos_core import explain
from bcos_models import create_model, load_trained, save_pretrained

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture
def folder(tmp_path):
    """A network with its names, as bcos convert and save_pretrained leave one."""
    model = create_model("cifar10_resnet20", num_classes=3, depths=[1], width=8)
    save_pretrained(model.eval(), tmp_path / "net", class_names=["rows", "columns", "corner"])
    return "net"


def test_program_explains_images_as_the_trained_network(bcos, folder):
    status, out, err = bcos("export", folder, "--out", "net.pt2")
    assert status == 0, err
    assert out.startswith("net.pt2: 0.")
    assert "PyTorch program, for any number of images; W differs from bcos_core.explain by at most" in out
    extra = {"metadata.json": ""}
    run = torch.export.load("net.pt2", extra_files=extra).module()
    trained, images = load_trained(folder), torch.rand(3, 3, 32, 32)
    e = explain(trained.model, trained.encode(images))
    results = run(images)
    torch.testing.assert_close(results["weight"], e.weight)
    torch.testing.assert_close(results["map"], e.map)
    described = json.loads(extra["metadata.json"])
    assert json.loads(described["class_names"]) == ["rows", "columns", "corner"]
    assert json.loads(described["input"])["size"] == 32
    assert (described["model"], described["probabilities"]) == ("cifar10_resnet20", "sigmoid")


@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
def test_onnx_file_of_a_fixed_batch(bcos, folder):
    import onnxruntime

    status, out, err = bcos("export", folder, "--out", "net.onnx", "--batch", "2")
    assert status == 0, err
    assert len(out.splitlines()) == 1
    assert "ONNX opset" in out
    assert "for 2 images" in out
    assert "(ONNX Runtime)" in out
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 3, 32, 32]
    assert session.get_modelmeta().custom_metadata_map["input_shape"] == "[2, 3, 32, 32]"


def test_mistakes_are_one_line(bcos, folder, line, tmp_path):
    assert "ending in .onnx or .pt2, got 'net.pth'" in line(bcos("export", folder, "--out", "net.pth"))
    assert "neither a run's folder" in line(bcos("export", "nothing", "--out", "net.pt2"))
    assert "--batch" in line(bcos("export", folder, "--out", "net.pt2", "--batch", "0"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net"]
