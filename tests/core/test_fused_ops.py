"""The hand-written derivatives of training against autograd's, on the plain expressions."""

import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from bcos_core import BcosConv2d, functional, norms
from bcos_core.fused_ops import (
    COS_EPS,
    box_sum,
    divide_by_batch_std,
    divide_by_std_of,
    has_batch_statistics,
    is_fusible,
    scale_by_cosine,
    sum_of_squares,
    window_sum,
    window_sum_formula,
)

EPS = 1e-5
NORM = torch.linspace(1, 2, 12).double().reshape(3, 1, 2, 2)


def plain_scale(linear, norm, b=2):
    cosine = (linear / norm).abs()
    return (cosine if b == 2 else (cosine + COS_EPS) ** (b - 1)) * linear


def scale(b):
    return partial(scale_by_cosine, b=b), partial(plain_scale, b=b)


def plain_divide(x, weight):
    dims = (0, *range(2, x.ndim))
    shape = [1, -1] + [1] * (x.ndim - 2)
    var = ((x - x.mean(dims, keepdim=True)) ** 2).mean(dims, keepdim=True)
    return x / (var + EPS).sqrt() * weight.reshape(shape)


def squares(x, factor):
    return (factor * sum_of_squares(x, 1)[:, None]).expand_as(x)


def plain_squares(x, factor):
    return (factor * (x**2).sum(1, keepdim=True)).expand_as(x)


def plain_divide_sample(x, weight, dims):
    var = ((x - x.mean(dims, keepdim=True)) ** 2).mean(dims, keepdim=True)
    return x / (var + EPS).sqrt() * weight


def divide_sample(dims):
    return partial(divide_by_std_of, dims=dims, eps=EPS), partial(plain_divide_sample, dims=dims)


def divide_scaled(x, weight):
    """Behind a B-cos transform, whose output is computed again."""
    return divide_by_batch_std(scale_by_cosine(x, NORM, 2), weight, EPS)[0]


def plain_divide_scaled(x, weight):
    return plain_divide(plain_scale(x, NORM), weight)


def windows(x, factor):
    return (factor * window_sum(x, (3, 2), (2, 1), (1, 2))).sum() * x


def plain_windows(x, factor):
    return (factor * window_sum_formula(x, (3, 2), (2, 1), (1, 2))).sum() * x


STEPS = {
    "divide tokens": (*divide_sample((-1,)), [(2, 3, 4), (4,)]),
    "divide positions": (*divide_sample((1,)), [(2, 4, 3, 3), (4, 1, 1)]),
    "divide groups": (*divide_sample((2, 3)), [(2, 3, 2, 5), (3, 2, 1)]),
    "divide a transform": (divide_scaled, plain_divide_scaled, [(3, 4, 2, 2), (4,)]),
    "windows": (windows, plain_windows, [(2, 4, 7, 6), (1,)]),
    "squares": (squares, plain_squares, [(2, 4, 3, 3), (1,)]),
    "squares of a vector": (squares, plain_squares, [(5, 4), (1,)]),
    "scale conv": (*scale(2), [(2, 4, 3, 3), (2, 1, 3, 3)]),
    "scale groups": (*scale(2), [(2, 4, 3), (2, 4, 3)]),
    "scale linear": (*scale(2), [(5, 4), (5, 1)]),
    "scale B = 1.25": (*scale(1.25), [(2, 4, 3, 3), (2, 1, 3, 3)]),
    "scale B = 2.5": (*scale(2.5), [(5, 4), (5, 1)]),
    "scale B = 4": (*scale(4), [(2, 4, 3), (2, 4, 3)]),
    "divide": (lambda x, w: divide_by_batch_std(x, w, EPS)[0], plain_divide, [(3, 4, 2, 2), (4,)]),
    "divide vectors": (lambda x, w: divide_by_batch_std(x, w, EPS)[0], plain_divide, [(5, 4), (4,)]),
}


def inputs(shapes, *, offset=0.0):
    first, second = torch.randn(shapes[0]).double() + offset, torch.rand(shapes[1]).double() + 0.5
    return first.requires_grad_(), second.requires_grad_()


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("name", STEPS)
def test_fused_step_is_the_plain_expression(name, offset):
    fused, plain, shapes = STEPS[name]
    leaves = inputs(shapes, offset=offset)
    torch.testing.assert_close(fused(*leaves), plain(*leaves))
    cotangent = torch.randn(shapes[0]).double()
    actual, expected = (torch.autograd.grad((f(*leaves) * cotangent).sum(), leaves) for f in (fused, plain))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", STEPS)
def test_derivatives_are_those_of_finite_differences(name):
    fused, _, shapes = STEPS[name]
    assert gradcheck(fused, inputs(shapes), fast_mode=True)
    assert gradgradcheck(fused, inputs(shapes), fast_mode=True)


@pytest.mark.parametrize("needed", [0, 1])
@pytest.mark.parametrize("name", STEPS)
def test_one_argument_alone_may_need_a_gradient(name, needed):
    fused, plain, shapes = STEPS[name]
    leaves = inputs(shapes)
    leaves[1 - needed].requires_grad_(False)
    actual, expected = (torch.autograd.grad(f(*leaves).sum(), leaves[needed]) for f in (fused, plain))
    torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
@pytest.mark.parametrize("b", [1.5, 2, 2.5])
def test_forward_mode_derivative_of_the_cosine_step_is_right(b):
    assert gradcheck(scale(b)[0], inputs([(2, 4, 3), (2, 1, 3)]), check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("b", [1.25, 1.5, 2, 3])
def test_derivative_at_zero_is_that_of_the_plain_expression(b):
    leaves = (torch.zeros(2, 3, dtype=torch.float64, requires_grad=True), torch.ones(2, 1, dtype=torch.float64))
    actual, expected = (torch.autograd.grad(f(*leaves).sum(), leaves[0])[0] for f in scale(b))
    torch.testing.assert_close(actual, expected)
    assert torch.isfinite(actual).all()


def test_squares_of_zeros_have_all_their_derivatives():
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(sum_of_squares(x, 1).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(first, torch.zeros_like(x))
    assert torch.equal(second, torch.full_like(x, 2))


@pytest.mark.parametrize("layer", [norms.BatchNormUncentered2d, norms.AllNormUncentered2d])
def test_training_with_and_without_gradient_is_the_same(layer, randomized):
    recorded, plain = (randomized(layer(4).double(), train=True) for _ in range(2))
    plain.load_state_dict(recorded.state_dict())
    x = torch.randn(3, 4, 5, 2).double() + 3
    y = recorded(x)
    with torch.no_grad():
        torch.testing.assert_close(y.detach(), plain(x))
    torch.testing.assert_close(recorded.running_var, plain.running_var)


def test_other_devices_take_the_plain_expressions():
    x = torch.ones(2, 3, 4, 4, device="meta")
    assert not has_batch_statistics(x)
    norm = norms.BatchNormUncentered2d(3, track_running_stats=False).to("meta")
    assert norm(x).shape == x.shape


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 1.0])
def test_running_variance_is_accurate_and_never_negative(spread):
    norm = norms.BatchNormUncentered2d(3, momentum=1.0).train()
    x = 0.5 + spread * torch.randn(4, 3, 5, 5)
    norm(x)
    expected = x.double().var((0, 2, 3), correction=0)
    assert (norm.running_var >= 0).all()
    assert ((norm.running_var - expected).abs() <= 1e-4 * expected + 1e-10).all()


@pytest.mark.parametrize("b", [1, 1.5, 2])
def test_values_with_and_without_gradient_are_the_same(b):
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(6, 4, 3, 3)
    with_gradient = functional.bcos_conv2d(x, weight.requires_grad_(), b=b).detach()
    torch.testing.assert_close(with_gradient, functional.bcos_conv2d(x, weight.detach(), b=b))


def test_fused_steps_are_for_recorded_tensors_beside_full_precision():
    x = torch.ones(2)
    assert not is_fusible(x, x)
    leaf = x.clone().requires_grad_()
    assert is_fusible(leaf, x)
    assert not is_fusible(leaf, x.double())
    assert is_fusible(leaf.bfloat16(), x)
    assert not is_fusible(leaf.bfloat16(), x.bfloat16())
    with torch.no_grad():
        assert not is_fusible(leaf, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", sorted(STEPS.keys() - {"divide a transform", "windows"})
)  # never half or rounded twice
def test_half_precision_is_rounded_once_at_the_end(name, dtype):
    fused, plain, shapes = STEPS[name]
    first, second = (leaf.detach().to(dtype).float() for leaf in inputs(shapes))
    narrow = (first.to(dtype).requires_grad_(), second.clone().requires_grad_())
    wide = (first.requires_grad_(), second.requires_grad_())
    y, expected = fused(*narrow), plain(*wide)
    gradient = torch.randn(shapes[0]).to(dtype)
    assert y.dtype == (torch.float32 if "squares" in name else dtype)
    torch.testing.assert_close(y, expected.to(y.dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    got = torch.autograd.grad(y, narrow, gradient.to(y.dtype))
    wanted = torch.autograd.grad(expected, wide, gradient.float())
    assert [g.dtype for g in got] == [dtype, torch.float32]
    torch.testing.assert_close(got[0], wanted[0].to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-3)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-4, atol=1e-4)


BOXES = [
    ((2, 1, 9, 8), (3, 3), (1, 1)),
    ((2, 1, 9, 8), (3, 2), (2, 3)),
    ((1, 3, 7, 5), (1, 5), (1, 1)),
    ((2, 1, 6, 6), (1, 1), (2, 2)),
    ((2, 1, 11), (4,), (2,)),
    ((1, 1, 5, 4, 6), (2, 3, 3), (1, 1, 2)),
]


def pooled(x, kernel, stride):
    ones = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype)
    conv = (torch.conv1d, torch.conv2d, torch.conv3d)[len(kernel) - 1]
    return conv(x, ones, None, stride, 0, 1, x.shape[1])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
@pytest.mark.parametrize(("shape", "kernel", "stride"), BOXES)
def test_box_sum_and_its_derivatives_are_those_of_a_kernel_of_ones(shape, kernel, stride):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(box_sum(x, kernel, stride), pooled(x, kernel, stride))
    assert not box_sum(x.detach(), kernel, stride).requires_grad
    assert gradcheck(lambda x: box_sum(x, kernel, stride), x, check_forward_ad=True)
    assert gradgradcheck(lambda x: box_sum(x, kernel, stride) ** 2, x)


def test_box_sum_leaves_its_input_alone_and_can_be_vectorised():
    x = torch.randn(4, 2, 1, 6, 6)
    before = x.clone()
    each = torch.stack([box_sum(part, (1, 3), (1, 1)) for part in x])
    torch.testing.assert_close(torch.vmap(lambda part: box_sum(part, (1, 3), (1, 1)))(x), each)
    box_sum(x[0], (1, 1), (1, 1)).add_(1)
    assert torch.equal(x, before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sum_of_squares_is_the_same_in_each_layout_of_memory(memory_format):
    x = torch.randn(2, 5, 4, 4).contiguous(memory_format=memory_format)
    torch.testing.assert_close(sum_of_squares(x, 1), (x * x).sum(1))
    torch.testing.assert_close(sum_of_squares(x.bfloat16(), 1), (x.bfloat16().float() ** 2).sum(1))


def transform_and_norm():
    linear, norm = torch.randn(3, 4, 2, 2).double().requires_grad_(), 1 + torch.rand(3, 1, 2, 2).double()
    return scale_by_cosine(linear * 1, norm, 2), torch.ones(4).double().requires_grad_()


def test_a_norm_behind_a_transform_does_not_keep_its_input():
    transformed, weight = transform_and_norm()
    there = weakref.ref(transformed)
    y, _ = divide_by_batch_std(transformed, weight, EPS)
    del transformed
    assert there() is None
    assert torch.autograd.grad(y.square().sum(), weight)[0].abs().min() > 0


def test_a_second_derivative_by_the_output_of_a_transform_is_that_of_the_plain_expression():
    transformed, weight = transform_and_norm()
    seconds = []
    for y in (divide_by_batch_std(transformed, weight, EPS)[0], plain_divide(transformed, weight)):
        (first,) = torch.autograd.grad((y**3).sum(), transformed, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), transformed)[0])
    torch.testing.assert_close(*seconds)


def test_an_output_that_was_changed_in_place_is_normalised_as_it_is():
    transformed, weight = transform_and_norm()
    with torch.no_grad():
        transformed.mul_(torch.rand(4, 1, 1).double())
    found = [
        torch.autograd.grad((y**3).sum(), transformed)[0]
        for y in (divide_by_batch_std(transformed, weight, EPS)[0], plain_divide(transformed, weight))
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("norm", ["batch_uncentered", "layer_uncentered", "position_uncentered", "group_uncentered"])
def test_gradients_are_the_same_with_checkpointing_and_saved_tensors_elsewhere(norm):
    layers = nn.Sequential(BcosConv2d(6, 8, 3, groups=2), norms.make_norm(norm, 8), BcosConv2d(8, 8, 3, b=1.5))
    model = nn.Sequential(layers, norms.make_norm(norm, 8)).double().train()
    x = torch.rand(2, 6, 9, 9).double()

    def gradients(forward):
        return torch.autograd.grad((forward(x) ** 3).sum(), list(model.parameters()))

    expected = gradients(model)
    torch.testing.assert_close(gradients(lambda x: checkpoint(model, x, use_reentrant=False)), expected)
    with saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        found = gradients(model)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm", ["layer_uncentered", "position_uncentered", "group_uncentered"])
def test_gradients_of_each_sample_come_from_torch_func_too(norm):
    model = nn.Sequential(BcosConv2d(6, 8, 3), norms.make_norm(norm, 8), nn.Flatten(), nn.Linear(8, 2)).train()
    parameters, x = dict(model.named_parameters()), torch.rand(3, 6, 3, 3)

    def loss(parameters, image):
        return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        torch.testing.assert_close([g[i] for g in found.values()], list(expected))
