"""Exported graphs: what they return, for any batch, beside eager explanations; their files."""

import doctest
import importlib.util
import json

import pytest
import torch
import torch.nn.functional as F
from explained_networks import TokenNet, calibrated
from torch import nn

from bcos_core import AddInverse, BcosConv2d, BcosError, explain, norms
from bcos_explain.export import OUTPUTS, export_explainer, exporter, save_explainer
from bcos_explain.export import onnx_file as module_of_onnx

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")


class Tokens(TokenNet):
    """Takes the number of images from the shape; its attention is sequence first."""

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.norm(self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)))
        return self.head(tokens[:, 0])


class Gated(nn.Module):
    """In-place activations, gates, max pooling, interpolation, and an offset that a rule looks at."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.gate = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.hardswish(self.conv(x), inplace=True)
        x = F.max_pool2d(F.softplus(x), 3, 2, 1)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = F.avg_pool2d(F.interpolate(x, scale_factor=2, mode="bilinear"), 2)
        return self.head(F.gelu(x).mean((2, 3)))


def network(name):
    """A network in float64, and three inputs."""
    if name in ("tokens", "gated"):
        net = Tokens("token") if name == "tokens" else Gated()
        return net.double().eval(), torch.rand(3, 3, 12, 16).double()
    net, x = calibrated(name)
    return net.double(), x.double()


NETWORKS = ("bcos_rgb", "plain", "tokens", "gated")


def small():
    """A B-cos network of one layer that takes 6 channels."""
    return nn.Sequential(BcosConv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "tokens" else n for n in NETWORKS])
def test_graph_explains_any_number_of_images_as_eager(name):
    net, x = network(name)
    run = export_explainer(net, x).module()
    for n in (1, 2, 3, 5):
        images = torch.rand(n, *x.shape[1:]).double()
        results, e = run(images), explain(net, images)
        assert list(results) == list(OUTPUTS)
        expected = (e.logits, e.target, e.weight, e.map, e.bias)
        for result, value in zip(results.values(), expected, strict=True):
            torch.testing.assert_close(result, value, rtol=1e-9, atol=1e-12)


def test_map_and_bias_sum_to_the_logit():
    net, x = network("plain")
    results = export_explainer(net, x).module()(x)
    logit = results["logits"].max(1).values
    assert (results["bias"].abs() > 1e-3).all()
    torch.testing.assert_close(results["map"].sum((1, 2)) + results["bias"], logit, rtol=1e-10, atol=1e-12)


def test_weight_is_the_derivative_by_finite_differences_of_a_linear_network():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().eval()
    x = torch.rand(2, 3, 2, 2).double()
    results = export_explainer(net, x).module()(x)
    for i, k in enumerate(results["target"]):
        torch.testing.assert_close(results["weight"][i].flatten(), net[1].weight[k].detach())
        torch.testing.assert_close(results["bias"][i], net[1].bias[k].detach())


def test_encoding_is_part_of_the_graph():
    net = small()
    image = torch.rand(2, 3, 7, 7)
    results = export_explainer(net, image, encode=AddInverse()).module()(image)
    e = explain(net, torch.cat([image, 1 - image], 1))
    torch.testing.assert_close(results["weight"], e.weight)
    torch.testing.assert_close(results["map"], e.map)


def test_vectors_are_explained():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.rand(2, 5)
    results = export_explainer(net, x).module()(x)
    torch.testing.assert_close(results["map"], explain(net, x).contributions)


def test_one_example_is_enough_for_a_dynamic_batch():
    run = export_explainer(small(), torch.rand(1, 6, 7, 7)).module()
    assert run(torch.rand(4, 6, 7, 7))["map"].shape == (4, 7, 7)


def test_fixed_batch_takes_no_other():
    run = export_explainer(small(), torch.rand(3, 6, 7, 7), dynamic_batch=False).module()
    assert run(torch.rand(3, 6, 7, 7))["map"].shape == (3, 7, 7)
    with pytest.raises((AssertionError, RuntimeError)):
        run(torch.rand(2, 6, 7, 7))


@pytest.mark.slow
def test_network_that_computes_with_its_batch_is_refused_unless_the_batch_is_fixed():
    net, x = TokenNet("token").double().eval(), torch.rand(3, 3, 12, 16).double()
    with pytest.raises(BcosError, match=r"computes with the number of images.*dynamic_batch=False"):
        export_explainer(net, x)
    results = export_explainer(net, x, dynamic_batch=False).module()(x)
    torch.testing.assert_close(results["bias"], explain(net, x).bias)


def test_gradients_and_mode_of_the_network_are_left_alone():
    net, x = network("plain")
    export_explainer(net, x)
    assert all(p.requires_grad and p.grad is None and type(p) is nn.Parameter for p in net.parameters())
    assert torch.is_grad_enabled()


def test_results_record_no_gradient():
    net, x = network("bcos_rgb")
    results = export_explainer(net, x).module()(x)
    assert not any(value.requires_grad for value in results.values())


def test_graph_holds_each_used_tensor_once_under_its_name_and_no_backward_operation_but_elementwise_ones():
    net, x = network("plain")
    program = export_explainer(net, x)
    floats = {name: t for name, t in net.state_dict().items() if t.is_floating_point()}
    held = {name.removeprefix("model."): t for name, t in program.state_dict.items() if name.startswith("model.")}
    assert held.keys() == floats.keys()
    assert all(t.data_ptr() == floats[name].data_ptr() for name, t in held.items())
    backward = {n.target.name() for n in program.graph.nodes if "backward" in str(n.target)}
    assert backward <= {"aten::threshold_backward", "aten::select_backward"}


class DecidesByValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x) if bool(x.mean() > 0.3) else self.head(2 * x + 1)


def test_graph_of_a_network_that_branches_is_refused(tmp_path):
    x = torch.stack([torch.zeros(4), torch.ones(4)])  # together above the threshold, the first alone below
    with pytest.raises(BcosError, match="reads values of its input, and may take another path"):
        save_explainer(tmp_path / "a.pt2", DecidesByValues().eval(), x)
    assert not list(tmp_path.iterdir())


def test_what_explain_refuses_is_refused_with_its_reason():
    with pytest.raises(BcosError, match=r"call model\.eval\(\) first"):
        export_explainer(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 3)), torch.rand(2, 3, 2, 2))
    with pytest.raises(BcosError, match=r"float32 or float64, got an example of torch\.float16"):
        export_explainer(small(), torch.rand(2, 6, 7, 7).half())


def test_pt2_file_is_read_back_with_its_metadata(tmp_path):
    net, x = small(), torch.rand(2, 3, 7, 7)
    saved = save_explainer(
        tmp_path / "a.pt2", net, x, encode=AddInverse(), class_names=list("abcd"), metadata={"model": "small"}
    )
    extra = {"metadata.json": ""}
    run = torch.export.load(saved.path, extra_files=extra).module()
    torch.testing.assert_close(run(x)["map"], explain(net, AddInverse()(x)).map)
    described = json.loads(extra["metadata.json"])
    assert json.loads(described["class_names"]) == list("abcd")
    assert json.loads(described["input_shape"]) == ["batch", 3, 7, 7]
    assert described["model"] == "small"
    assert (saved.size, saved.opset, saved.checked_with) == (saved.path.stat().st_size, None, "PyTorch")


def test_mistakes_name_what_is_needed(tmp_path, monkeypatch):
    net, x = small(), torch.rand(2, 6, 7, 7)
    with pytest.raises(BcosError, match=r"saved as \.onnx or \.pt2, got 'a\.pth'"):
        save_explainer(tmp_path / "a.pth", net, x)
    with pytest.raises(BcosError, match="4 outputs, got 2 class names"):
        save_explainer(tmp_path / "a.pt2", net, x, class_names=["a", "b"])
    monkeypatch.setattr(module_of_onnx, "find_spec", lambda name: None)
    with pytest.raises(BcosError, match=r"onnx and onnxscript is not installed; run pip install"):
        save_explainer(tmp_path / "a.onnx", net, x)
    assert not list(tmp_path.iterdir())


@needs_onnx
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "tokens" else n for n in NETWORKS])
def test_onnx_runtime_explains_any_number_of_images_as_eager(name, tmp_path):
    import onnxruntime

    net, x = network(name)
    net, x = net.float(), x.float()
    saved = save_explainer(tmp_path / "a.onnx", net, x)
    session = onnxruntime.InferenceSession(saved.path, providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == list(OUTPUTS)
    assert saved.checked_with == "ONNX Runtime"
    assert saved.agreement.weight < 1e-3
    for n in (1, 4):
        images = torch.rand(n, *x.shape[1:])
        e = explain(net, images)
        results = session.run(None, {"image": images.numpy()})
        for result, value in zip(results, (e.logits, e.target, e.weight, e.map, e.bias), strict=True):
            torch.testing.assert_close(torch.from_numpy(result), value, rtol=1e-3, atol=1e-5)


@needs_onnx
def test_onnx_file_is_as_large_as_its_weights_says_what_it_is_and_names_no_path(tmp_path):
    import onnx

    net = nn.Sequential(
        BcosConv2d(6, 128, 3, padding=1), norms.BatchNormUncentered2d(128), BcosConv2d(128, 128, 3), *small()[1:]
    ).eval()
    saved = save_explainer(
        tmp_path / "a.onnx", net, torch.rand(2, 3, 8, 8), encode=AddInverse(), class_names=[str(k) for k in range(128)]
    )
    weights = sum(4 * p.numel() for p in net.parameters())
    assert weights < saved.size < 1.1 * weights
    content = saved.path.read_bytes()
    assert b"site-packages" not in content
    assert b"bcos_explain/" not in content
    proto = onnx.load_from_string(content)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    described = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(described["class_names"])[5] == "5"
    assert json.loads(described["input_shape"]) == ["batch", 3, 8, 8]
    onnx.checker.check_model(proto)


@needs_onnx
def test_onnx_files_are_float32(tmp_path):
    net, x = network("bcos_rgb")
    with pytest.raises(BcosError, match=r"float32, got an example of torch\.float64; write a \.pt2 file"):
        save_explainer(tmp_path / "a.onnx", net, x)


@needs_onnx
def test_operation_that_onnx_lacks_is_named(tmp_path):
    class Sampled(nn.Module):
        def forward(self, x):
            grid = torch.zeros(x.shape[0], 2, 2, 2)
            return F.grid_sample(x, grid, align_corners=False).mean((2, 3))

    with pytest.raises(BcosError, match=r"no counterpart of aten\.grid_sampler_2d_backward; write a \.pt2 file"):
        save_explainer(tmp_path / "a.onnx", Sampled().eval(), torch.rand(2, 3, 4, 4))
    assert save_explainer(tmp_path / "a.pt2", Sampled().eval(), torch.rand(2, 3, 4, 4)).size


def test_example_in_docstring():
    result = doctest.testmod(exporter, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0
