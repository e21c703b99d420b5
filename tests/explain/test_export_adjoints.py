"""Backward passes written with forward operations: beside the transposed matrix, and beside autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from bcos_explain.export.adjoints import ADJOINTS

WEIGHT = torch.linspace(-1, 1, 8 * 2 * 3 * 3).double().reshape(8, 2, 3, 3)
LINEAR = {
    "conv": (lambda x: F.conv2d(x, WEIGHT, stride=2, padding=1, groups=2), (2, 4, 7, 6)),
    "conv_dilated": (lambda x: F.conv2d(x, WEIGHT[:, :, :2], stride=(3, 1), dilation=2, groups=2), (1, 4, 9, 8)),
    "conv_transposed": (
        lambda x: F.conv_transpose2d(x, WEIGHT, stride=2, padding=1, output_padding=1, groups=4),
        (2, 8, 4, 3),
    ),
    "conv1d": (lambda x: F.conv1d(x, WEIGHT[..., 0], stride=2, padding=1), (2, 2, 7)),
    "avg_pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 3, 7, 6)),
    "avg_pool_ceil": (lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True), (2, 3, 8, 7)),
    "avg_pool_no_pad": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (1, 2, 6, 7)),
    "avg_pool_divisor": (lambda x: F.avg_pool2d(x, 3, divisor_override=5), (1, 2, 6, 7)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 3, 8)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2, (1, 2, 1)), (1, 2, 3, 4, 5)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (2, 3, 7, 5)),
    "adaptive3d": (lambda x: F.adaptive_avg_pool3d(x, (3, 2, 2)), (1, 2, 4, 5, 3)),
    "linear1d": (lambda x: F.interpolate(x, 7, mode="linear"), (2, 3, 4)),
    "bilinear": (lambda x: F.interpolate(x, (7, 5), mode="bilinear"), (2, 3, 4, 6)),
    "bilinear_corners": (lambda x: F.interpolate(x, (7, 5), mode="bilinear", align_corners=True), (2, 3, 4, 6)),
    "bilinear_scale": (lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode="bilinear"), (2, 3, 4, 6)),
    "bilinear_aa": (lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True), (2, 3, 7, 6)),
    "bicubic": (lambda x: F.interpolate(x, (7, 5), mode="bicubic"), (2, 3, 4, 6)),
    "bicubic_aa": (lambda x: F.interpolate(x, (3, 4), mode="bicubic", antialias=True), (2, 3, 7, 6)),
    "trilinear": (lambda x: F.interpolate(x, (3, 4, 2), mode="trilinear"), (1, 2, 2, 3, 4)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), (2, 3, 4, 3)),
    "nearest_exact": (lambda x: F.interpolate(x, (5, 7), mode="nearest-exact"), (2, 3, 4, 3)),
    "reflect": (lambda x: F.pad(x, (2, 1, 0, 3), mode="reflect"), (2, 3, 5, 4)),
    "reflect1d": (lambda x: F.pad(x, (2, 1), mode="reflect"), (2, 3, 5)),
    "replicate": (lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"), (2, 3, 5, 4)),
    "replicate3d": (lambda x: F.pad(x, (2, 1, 0, 3, 1, 1), mode="replicate"), (1, 2, 3, 4, 3)),
}
SELECTIONS = {
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 3, 7, 6)),
    "max_pool_ceil": (lambda x: F.max_pool2d(x, 3, 2, 1, dilation=1, ceil_mode=True), (2, 3, 8, 6)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), (1, 2, 4, 4, 5)),
    "adaptive_max": (lambda x: F.adaptive_max_pool2d(x, (3, 2)), (2, 3, 7, 5)),
}


def recorded_backward(function, x, gradient):
    """The gradient by x, recorded with our transposes; nothing else is left of a backward pass."""

    def backward(x, gradient):
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(function(leaf), leaf, gradient)[0]

    graph = make_fx(backward, decomposition_table=ADJOINTS)(x, gradient)
    assert not [n.target for n in graph.graph.nodes if "backward" in str(n.target)]
    return graph(x, gradient)


@pytest.mark.parametrize("name", LINEAR)
def test_transpose_is_that_of_the_matrix(name):
    function, shape = LINEAR[name]
    x = torch.rand(1, *shape[1:]).double()
    basis = torch.eye(x.numel()).double().reshape(-1, *shape[1:])
    matrix = torch.cat([function(e[None]).flatten()[None] for e in basis])  # (inputs, outputs)
    gradient = torch.randn(function(x).shape).double()
    expected = (matrix @ gradient.flatten()).reshape(x.shape)
    torch.testing.assert_close(recorded_backward(function, x, gradient), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", {**LINEAR, **SELECTIONS})
def test_transpose_is_that_of_autograd(name):
    function, shape = {**LINEAR, **SELECTIONS}[name]
    x = torch.rand(shape).double().requires_grad_()
    y = function(x)
    gradient = torch.randn(y.shape).double()
    expected = torch.autograd.grad(y, x, gradient)[0]
    torch.testing.assert_close(recorded_backward(function, x.detach(), gradient), expected, rtol=1e-6, atol=1e-6)
