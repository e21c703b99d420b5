"""Plain PyTorch layers in explanation mode: the same values, a frozen variance, a moving mean."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import explain, explanation_mode


def standardise(x, dims, eps=1e-5):
    """(x - mean) / std with a constant variance, from sums alone."""
    count = torch.tensor([x.shape[d] for d in dims]).prod()
    mean = x.sum(dims, keepdim=True) / count
    var = ((x - mean) ** 2).sum(dims, keepdim=True) / count
    return (x - mean) / (var.detach() + eps).sqrt()


def along_channels(parameter, x):
    return parameter.reshape(1, -1, *[1] * (x.ndim - 2))


def affine(layer, y):
    return y * along_channels(layer.weight, y) + along_channels(layer.bias, y)


def grouped(layer, x):
    y = x.reshape(x.shape[0], layer.num_groups, -1, *x.shape[2:])
    return affine(layer, standardise(y, tuple(range(2, y.ndim)), layer.eps).reshape(x.shape))


def running(layer, x):
    mean, var = (along_channels(s, x) for s in (layer.running_mean, layer.running_var))
    return affine(layer, (x - mean) / (var + layer.eps).sqrt())


def instance(layer, x):
    return affine(layer, standardise(x, tuple(range(2, x.ndim)), layer.eps))


LAYERS = [
    (nn.LayerNorm(5), (2, 3, 5), lambda m, x: standardise(x, (-1,)) * m.weight + m.bias),
    (nn.LayerNorm((3, 5)), (2, 3, 5), lambda m, x: standardise(x, (-2, -1)) * m.weight + m.bias),
    (nn.LayerNorm(5, bias=False), (4, 5), lambda m, x: standardise(x, (-1,)) * m.weight),
    (nn.LayerNorm(5, elementwise_affine=False, eps=0.1), (4, 5), lambda m, x: standardise(x, (-1,), 0.1)),
    (nn.GroupNorm(2, 4), (3, 4, 2, 3), grouped),
    (nn.GroupNorm(2, 4, eps=0.1), (3, 4), grouped),
    (nn.InstanceNorm1d(4, affine=True), (3, 4, 5), instance),
    (nn.InstanceNorm2d(4, affine=True), (3, 4, 2, 3), instance),
    (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (3, 4, 2, 3), running),
    (nn.BatchNorm1d(4), (3, 4), running),
    (nn.BatchNorm1d(4), (3, 4, 5), running),
    (nn.BatchNorm2d(4, eps=0.1), (3, 4, 2, 3), running),
    (nn.BatchNorm3d(4), (3, 4, 2, 3, 2), running),
]


@pytest.mark.parametrize(("layer", "shape", "literal"), LAYERS, ids=[f"{layer}-{shape}" for layer, shape, _ in LAYERS])
def test_plain_norm_freezes_the_variance_but_not_the_mean(layer, shape, literal, randomized, gradient):
    layer = randomized(layer.double())
    x = torch.randn(shape).double() + 1
    torch.testing.assert_close(layer(x), literal(layer, x))
    with explanation_mode(layer):
        torch.testing.assert_close(layer(x), literal(layer, x))
    expected = gradient(lambda v: literal(layer, v), x)
    torch.testing.assert_close(gradient(layer, x, explaining=True), expected)


AFFINE_LAYERS = [
    (nn.Linear(4, 3), (2, 4)),
    (nn.Linear(4, 3), (2, 5, 4)),
    (nn.Linear(4, 3, bias=False), (2, 4)),
    (nn.Conv1d(4, 3, 2), (2, 4, 5)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    (nn.Conv2d(4, 3, 3, padding=2, padding_mode="circular", dilation=2), (2, 4, 5, 5)),
    (nn.Conv2d(4, 3, 3, padding="same"), (2, 4, 5, 5)),
    (nn.Conv3d(4, 3, 2), (2, 4, 3, 3, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), AFFINE_LAYERS, ids=str)
def test_bias_of_a_plain_layer_is_its_output_for_zero(layer, shape, randomized):
    layer = randomized(layer.double())
    model = nn.Sequential(layer, nn.Flatten())
    x = torch.randn(shape).double()
    e = explain(model, x, target=torch.tensor([0, 2]))
    at_zero = model(torch.zeros_like(x)).gather(1, e.target[:, None])[:, 0]
    torch.testing.assert_close(e.bias, at_zero)
    assert list(e.bias_terms) == (["0.bias"] if layer.bias is not None else [])
    torch.testing.assert_close(e.score, model(x).gather(1, e.target[:, None])[:, 0])


class Call(nn.Module):
    """A network written as one function call."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4).double())
        self.bias = nn.Parameter(torch.randn(4).double())
        self.register_buffer("mean", torch.randn(4).double())
        self.register_buffer("var", torch.rand(4).double() + 0.5)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


KEYWORD_CALLS = {
    "linear": lambda m, x: F.linear(input=x, weight=m.weight, bias=m.bias),
    "conv": lambda m, x: F.conv1d(input=x[..., None], weight=m.weight[..., None], bias=m.bias).flatten(1),
    "layer_norm": lambda m, x: F.layer_norm(input=x, normalized_shape=(4,), weight=m.bias, bias=m.bias),
    "group_norm": lambda m, x: F.group_norm(input=x, num_groups=2, weight=m.bias, bias=m.bias),
    "batch_norm": lambda m, x: F.batch_norm(input=x, running_mean=m.mean, running_var=m.var, bias=m.bias),
    "instance_norm": lambda m, x: F.instance_norm(input=x.unflatten(1, (2, 2))).flatten(1),
    "add": lambda m, x: torch.add(input=x, other=m.bias),
    "x.add": lambda m, x: x.add(other=m.bias),
}


@pytest.mark.parametrize("name", KEYWORD_CALLS)
def test_functions_may_be_called_with_keywords(name):
    model, x = Call(KEYWORD_CALLS[name]), torch.randn(3, 4).double()
    e = explain(model, x, target=1)
    torch.testing.assert_close(e.score, model(x)[:, 1])
    assert (e.residual.abs() < 1e-12).all()


ACTIVATIONS = {
    "gelu": (F.gelu, lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    "silu": (F.silu, lambda x: x / (1 + (-x).exp())),
    "mish": (F.mish, lambda x: x * torch.tanh(torch.log(1 + x.exp()))),
    "hardswish": (F.hardswish, lambda x: x * (x + 3).clamp(0, 6) / 6),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_smooth_activation_is_the_input_times_a_frozen_gate(name, gradient):
    function, definition = ACTIVATIONS[name]
    x = torch.tensor([[-4.0, -2.0, -0.5, 1e-9, 0.3, 2.0, 4.0]]).double()
    with explanation_mode(nn.Identity()):
        torch.testing.assert_close(function(x), definition(x))
    expected = gradient(lambda v: v * (definition(x) / x), x)
    torch.testing.assert_close(gradient(Call(lambda _, v: function(v)), x, explaining=True), expected)


@pytest.mark.parametrize(
    "layer", [nn.GELU(), nn.GELU("tanh"), nn.SiLU(inplace=True), nn.Hardswish(), nn.Mish()], ids=str
)
def test_network_with_smooth_activations_is_explained_exactly(layer):
    model = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3)).double()
    x = torch.randn(5, 4).double()
    x[0] = 0
    e = explain(model, x, target=1)
    torch.testing.assert_close(e.score, model(x)[:, 1])
    assert (e.residual.abs() < 1e-12).all()
    assert list(e.bias_terms) == ["0.bias", "2.bias"]


def test_activation_in_place_changes_its_input():
    def forward(_, x):
        y = 1 * x
        F.silu(y, inplace=True)
        return y

    model, x = Call(forward), torch.randn(3, 4).double()
    e = explain(model, x, target=1)
    torch.testing.assert_close(e.score, F.silu(x)[:, 1])
    assert (e.residual.abs() < 1e-12).all()


def test_explaining_changes_no_running_statistics(net, images):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    explain(net, images)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_batch_norm_in_train_mode_keeps_its_meaning_in_another_models_block():
    norm, x = nn.BatchNorm1d(4).train(), torch.randn(8, 4)
    with explanation_mode(nn.Identity()):
        inside = norm(x)
    torch.testing.assert_close(inside, norm(x))
