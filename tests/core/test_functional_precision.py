import pytest
import torch

from bcos_core.functional import bcos_conv2d, bcos_linear

HALVES = {torch.bfloat16: 0.03, torch.float16: 0.004}
"""Allowed error relative to the largest output."""
TRANSFORMS = {
    "linear": (bcos_linear, (4, 8), (6, 8)),
    "conv": (bcos_conv2d, (2, 4, 5, 5), (6, 4, 3, 3)),
    "dilated conv": (lambda x, w, **o: bcos_conv2d(x, w, 1, 2, 2, **o), (2, 4, 5, 5), (6, 4, 3, 3)),
    "same conv": (lambda x, w, **o: bcos_conv2d(x, w, 1, "same", **o), (2, 4, 5, 5), (6, 4, 2, 2)),
}
INPUTS = {
    "zeros": torch.zeros,
    "ordinary": torch.randn,
    "large": lambda shape: 3e2 * (1 + torch.rand(shape)),
    "small": lambda shape: 1e-4 * torch.randn(shape),
    "half zero": lambda shape: (
        torch.randn(shape).relu() * (torch.arange(shape[0]) % 2).reshape(-1, *[1] * (len(shape) - 1))
    ),
}
every = [
    pytest.mark.parametrize("b", [1, 1.5, 2, 2.5]),
    pytest.mark.parametrize("values", INPUTS),
    pytest.mark.parametrize("name", TRANSFORMS),
]


def all_of(test):
    for mark in every:
        test = mark(test)
    return test


def check_near(actual, expected, dtype):
    assert actual.dtype == dtype
    assert torch.isfinite(actual).all()
    error = (actual.float() - expected).abs().max()
    assert error <= HALVES[dtype] * expected.abs().max() + 1e-7


def check_gradients_are_finite(y, *leaves):
    for gradient in torch.autograd.grad(y.float().mean(), leaves):
        assert torch.isfinite(gradient).all()


@all_of
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_stays_near_float32(dtype, name, values, b):
    transform, x_shape, w_shape = TRANSFORMS[name]
    x, weight = INPUTS[values](x_shape).to(dtype), torch.randn(w_shape).to(dtype)
    x.requires_grad_()
    weight.requires_grad_()
    y = transform(x, weight, b=b)
    check_near(y.detach(), transform(x.detach().float(), weight.detach().float(), b=b), dtype)
    check_gradients_are_finite(y, x, weight)


@all_of
def test_autocast_stays_near_float32(name, values, b):
    transform, x_shape, w_shape = TRANSFORMS[name]
    x, weight = INPUTS[values](x_shape).requires_grad_(), torch.randn(w_shape).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = transform(x, weight, b=b)
    check_near(y.detach(), transform(x.detach(), weight.detach(), b=b), torch.bfloat16)
    check_gradients_are_finite(y, x, weight)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_input_gives_zero_and_finite_gradients(name, b, dtype):
    transform, x_shape, w_shape = TRANSFORMS[name]
    x = torch.zeros(x_shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(w_shape, dtype=dtype, requires_grad=True)
    y = transform(x, weight, b=b)
    assert (y == 0).all()
    check_gradients_are_finite(y, x, weight)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 2}], ids=str)
def test_patch_norms_that_are_convolved_stay_in_float32_under_autocast(options):
    x = 320 * torch.rand(1, 64, 12, 12)
    weight = torch.rand(4, 64 // options.get("groups", 1), 3, 3)
    expected = bcos_conv2d(x, weight, **options)
    with torch.autocast("cpu", torch.float16):
        found = bcos_conv2d(x, weight, **options)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.1)
