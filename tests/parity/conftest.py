import pytest
import torch


@pytest.fixture(params=[(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["float64", "float32"])
def precision(request):
    """Type of all tensors, and the tolerance relative to the largest value; seeds torch."""
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def compare(precision):
    """Compare two modules: outputs, gradients of input and parameters, explanation gradients."""
    from bcos_core import explanation_mode

    dtype, tolerance = precision

    def close(ours, theirs, what):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale, msg=lambda m: f"{what}: {m}")

    def gradients(module, x, parameters):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        cotangent = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        return y.detach(), torch.autograd.grad((y * cotangent).sum(), [leaf, *parameters])

    def run(ours, theirs, x, *, pairs=(), explain=True):
        ours, theirs, x = ours.to(dtype), theirs.to(dtype), x.to(dtype)
        y, (g, *gs) = gradients(ours, x, [a for a, _ in pairs])
        expected, (eg, *egs) = gradients(theirs, x, [b for _, b in pairs])
        close(y, expected, "output")
        close(g, eg, "input gradient")
        for a, b in zip(gs, egs, strict=True):
            close(a, b, "parameter gradient")
        if explain:
            theirs.set_explanation_mode(True)
            with explanation_mode(ours):
                y, (g,) = gradients(ours, x, [])
            expected, (eg,) = gradients(theirs, x, [])
            theirs.set_explanation_mode(False)
            close(y, expected, "output in explanation mode")
            close(g, eg, "explanation")

    return run
