"""The prediction path leaves PyTorch's eager mode: export, ONNX, compilation."""

import pytest
import torch


@pytest.fixture
def single(small, family, encoded):
    """A small network of every kind in float32, and its input."""
    return small.float(), encoded(family[0]).float()


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def batch():
    return ({0: torch.export.Dim("batch", min=1, max=64)},)


def test_exported_program_gives_the_same_logits_for_any_batch(single, batch):
    model, x = single
    program = torch.export.export(model, (x,), dynamic_shapes=batch).module()
    with torch.no_grad():
        for more in (x, torch.cat([x, x.flip(2)])):
            torch.testing.assert_close(program(more), model(more), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # reason: what the exporter warns of is its own affair
def test_onnx_file_gives_the_same_logits_for_any_batch(single, batch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = single
    torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=batch, verbose=False).save(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    with torch.no_grad():
        for more in (x, torch.cat([x, x.flip(2)])):
            (logits,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
            torch.testing.assert_close(torch.from_numpy(logits), model(more), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compiled_forward_has_no_graph_break(training, single):
    model, x = single
    model.train(training)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        expected = model(x)
        model.load_state_dict(state)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_training_step_gives_the_same_gradients(small, family, encoded):
    """In float64: gradients of weights in front of a norm all but cancel."""
    model, x = small.train(), encoded(family[0])
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def gradients(network):
        model.load_state_dict(state)
        model.zero_grad()
        network(x).square().mean().backward()
        return {k: p.grad.clone() for k, p in model.named_parameters()}

    expected = gradients(model)
    found = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
    for key, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            found[key], gradient, rtol=1e-6, atol=1e-6 * scale, msg=lambda m, key=key: f"{key}: {m}"
        )
