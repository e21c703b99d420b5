"""The twelve norms against a literal definition: label the elements by statistic, loop over the labels."""

import pytest
import torch

from bcos_core import BcosError, explanation_mode, norms

NAMES = norms.norm_names()
RUNNING = [name for name in NAMES if name.startswith(("all", "batch"))]
PER_SAMPLE = [name for name in NAMES if name not in RUNNING]
AFFINES = ["affine", "linear", "plain"]
EPS = 1e-5


def labels(name, n, c, h, w):
    """Number of the statistic that each element of (N, C, H, W) belongs to."""
    index = torch.meshgrid(*map(torch.arange, (n, c, h, w)), indexing="ij")
    sample, channel, row, column = index
    groups = 2
    return {
        "all": sample * 0,
        "batch": channel,
        "group": sample * groups + channel // (c // groups),
        "instance": sample * c + channel,
        "layer": sample,
        "position": (sample * h + row) * w + column,
    }[name.removesuffix("_uncentered")]


def literal(norm, name, x, *, frozen=False, running=False):
    """Definition of the norm `name`, with the parameters of `norm`."""
    which = labels(name, *x.shape)
    result = torch.zeros_like(x)
    for label in which.unique():
        mask = which == label
        if running:
            mean = norm.running_mean[label] if norm.running_mean is not None else 0.0
            var = norm.running_var[label]
        else:
            mean = x[mask].mean()
            var = (x[mask] - mean).square().mean()
        var = var.detach() if frozen else var
        shifted = x if name.endswith("_uncentered") else x - mean
        result = torch.where(mask, shifted / (var + EPS).sqrt(), result)
    if norm.weight is not None:
        result = result * norm.weight.reshape(1, -1, 1, 1)
    return result if norm.bias is None else result + norm.bias.reshape(1, -1, 1, 1)


@pytest.fixture
def x():
    return torch.randn(3, 4, 3, 2).double() * 2 + 1


@pytest.fixture
def build(randomized):
    def make(name, affine, *, train):
        return randomized(norms.make_norm(name, 4, affine=affine).double(), train=train)

    return make


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("name", NAMES)
def test_norm_in_train_mode_is_its_definition(name, affine, build, gradient, x):
    norm = build(name, affine, train=True)
    assert (norm.weight is None, norm.bias is None) == (affine == "plain", affine != "affine")
    expected = literal(norm, name, x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)
    expected = gradient(lambda v: literal(norm, name, v), x)
    torch.testing.assert_close(gradient(norm, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("name", NAMES)
def test_norm_in_eval_mode_is_its_definition(name, affine, build, gradient, x):
    norm = build(name, affine, train=False)
    running = name in RUNNING
    expected = literal(norm, name, x, running=running)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)
    expected = gradient(lambda v: literal(norm, name, v, running=running), x)
    torch.testing.assert_close(gradient(norm, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("name", NAMES)
def test_explanation_mode_freezes_the_variance_but_not_the_mean(name, affine, build, gradient, x):
    norm = build(name, affine, train=False)
    running = name in RUNNING
    expected = gradient(lambda v: literal(norm, name, v, frozen=True, running=running), x)
    torch.testing.assert_close(gradient(norm, x, explaining=True), expected, rtol=1e-9, atol=1e-9)
    with explanation_mode(norm):
        torch.testing.assert_close(norm(x), literal(norm, name, x, running=running), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_samples_do_not_see_each_other(name, build, x):
    norm = build(name, "affine", train=True)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 2, 3, 2)])
def test_norms_take_any_number_of_spatial_dimensions(name, shape, build):
    norm = build(name, "affine", train=True)
    x = torch.randn(shape).double()
    as_image = x.reshape(*shape[:2], -1, 1)
    torch.testing.assert_close(norm(x).reshape(as_image.shape), literal(norm, name, as_image))


@pytest.mark.parametrize("name", NAMES)
def test_constant_input_gives_finite_values_and_gradients(name, build, gradient):
    norm = build(name, "affine", train=True)
    assert torch.isfinite(norm(torch.full((2, 4, 3, 3), 0.0).double())).all()
    assert torch.isfinite(gradient(norm, torch.full((2, 4, 3, 3), 7.0).double())).all()


@pytest.mark.parametrize("value", [0.0, 3e2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near_float32(name, train, dtype, value, build):
    norm = build(name, "affine", train=train)
    with torch.no_grad():
        x = (value + value * torch.rand(4, 4, 3, 3)).to(dtype)
        norm = norm.to(dtype)
        y = norm(x)
        expected = norm.float()(x.float())
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    error = (y.float() - expected).abs().max()
    assert error <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_number_of_channels_is_refused(name, build):
    norm = build(name, "linear", train=False)
    message = rf"{type(norm).__name__} got an input of shape \(2, 3, 5, 5\), needs 4 channels in dimension 1"
    with pytest.raises(BcosError, match=message):
        norm(torch.zeros(2, 3, 5, 5).double())
