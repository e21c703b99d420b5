"""Norms and normalisations that are not of layers, groups or batches: their sizes are frozen."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import explain, explanation_mode


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.2, 2.0, 0.3]).double())
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def same(model, literal, x, gradient):
    """`model` has the values of `literal`, and in explanation mode its gradient."""
    torch.testing.assert_close(model(x), literal(x))
    with explanation_mode(model):
        torch.testing.assert_close(model(x), literal(x))
    torch.testing.assert_close(gradient(model, x, explaining=True), gradient(literal, x))


def rms(x, dims, eps):
    count = math.prod(x.shape[d] for d in dims)
    return ((x * x).sum(dims, keepdim=True) / count + eps).sqrt().detach()


EPS = torch.finfo(torch.float64).eps
W = torch.tensor([0.5, -1.2, 2.0, 0.3]).double()
RMS = {
    "plain": (lambda m, x: F.rms_norm(x, (4,)), lambda x: x / rms(x, (-1,), EPS)),
    "eps": (lambda m, x: F.rms_norm(x, (4,), eps=0.1), lambda x: x / rms(x, (-1,), 0.1)),
    "weight": (lambda m, x: F.rms_norm(x, (4,), m.weight), lambda x: x / rms(x, (-1,), EPS) * W),
    "keywords": (
        lambda m, x: F.rms_norm(input=x, normalized_shape=[4], weight=m.weight, eps=0.1),
        lambda x: x / rms(x, (-1,), 0.1) * W,
    ),
    "two dimensions": (lambda m, x: F.rms_norm(x, (3, 4)), lambda x: x / rms(x, (-2, -1), EPS)),
    "torch": (lambda m, x: torch.rms_norm(x, (4,), m.weight, 0.1), lambda x: x / rms(x, (-1,), 0.1) * W),
}


@pytest.mark.parametrize("name", RMS)
def test_rms_norm_freezes_the_mean_square(name, gradient):
    function, literal = RMS[name]
    same(Call(function), literal, torch.randn(2, 3, 4).double() + 1, gradient)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_rms_norm_module_is_explained_completely_and_without_a_bias(affine, eps, randomized, gradient):
    layer = randomized(nn.RMSNorm(4, eps=eps, elementwise_affine=affine).double())
    weight = layer.weight.detach() if affine else 1
    x = torch.randn(3, 4).double() + 1
    same(layer, lambda v: v / rms(v, (-1,), eps or EPS) * weight, x, gradient)
    e = explain(layer, x, target=1)
    assert (e.residual.abs() < 1e-12).all()
    assert e.bias_terms == {}


def literal_normalize(x, p, dim, eps=1e-12):
    norm = x.abs().pow(p).sum(dim, keepdim=True).pow(1 / p)
    return x / torch.where(norm > eps, norm, eps).detach()


NORMALIZE = {
    "default": (lambda m, x: F.normalize(x), lambda x: literal_normalize(x, 2, 1)),
    "last dimension": (lambda m, x: F.normalize(x, dim=-1), lambda x: literal_normalize(x, 2, -1)),
    "p=1": (lambda m, x: F.normalize(x, 1.0, 2), lambda x: literal_normalize(x, 1, 2)),
    "p=3": (lambda m, x: F.normalize(x, p=3, dim=2), lambda x: literal_normalize(x, 3, 2)),
    "large eps": (lambda m, x: F.normalize(x, eps=3.0), lambda x: literal_normalize(x, 2, 1, 3.0)),
    "two dimensions": (lambda m, x: F.normalize(x, dim=(1, 2)), lambda x: literal_normalize(x, 2, (1, 2))),
    "by hand": (lambda m, x: x / x.norm(dim=1, keepdim=True), lambda x: literal_normalize(x, 2, 1)),
}


@pytest.mark.parametrize("name", NORMALIZE)
def test_normalize_freezes_the_norm(name, gradient):
    function, literal = NORMALIZE[name]
    same(Call(function), literal, torch.randn(2, 3, 4).double(), gradient)


def test_normalize_of_zero_is_zero_and_finite(gradient):
    x = torch.zeros(2, 4).double()
    found = gradient(Call(lambda m, v: F.normalize(v)), x, explaining=True)
    torch.testing.assert_close(found, gradient(lambda v: v / 1e-12, x))


OTHER = torch.tensor([[0.3, -1.0, 0.8, 1.7], [1.1, 0.2, -0.4, 0.9]]).double()


def length(x, dim, eps=1e-8):
    return (x * x).sum(dim, keepdim=True).sqrt().clamp_min(eps).detach()


def literal_cosine(a, b, dim=1):
    """Both arguments given: each, with the other frozen, has half of it."""
    a, b = a / length(a, dim), b / length(b, dim)
    return ((a * b.detach() + a.detach() * b) / 2).sum(dim)


COSINE = {
    "constant": (
        lambda m, x: F.cosine_similarity(x, OTHER),
        lambda x: (x / length(x, 1) * OTHER / length(OTHER, 1)).sum(1),
    ),
    "constant first": (
        lambda m, x: F.cosine_similarity(OTHER, x),
        lambda x: (x / length(x, 1) * OTHER / length(OTHER, 1)).sum(1),
    ),
    "torch, last dimension": (
        lambda m, x: torch.cosine_similarity(x, m.weight, dim=-1),
        lambda x: (x / length(x, 1) * W / length(W, 0)).sum(1),
    ),
    "pairs": (
        lambda m, x: F.cosine_similarity(x[:, None], OTHER[None], dim=2),
        lambda x: (x / length(x, 1)) @ (OTHER / length(OTHER, 1)).T,
    ),
    "two inputs": (lambda m, x: F.cosine_similarity(x, x.flip(1)), lambda x: literal_cosine(x, x.flip(1))),
    "module": (lambda m, x: nn.CosineSimilarity()(x, x**2), lambda x: literal_cosine(x, x * x.detach())),
}


@pytest.mark.parametrize("name", COSINE)
def test_cosine_similarity_freezes_both_norms(name, gradient):
    function, literal = COSINE[name]
    same(Call(function), literal, torch.randn(2, 4).double(), gradient)


def test_cosine_similarity_broadcasts_first(gradient):
    _, literal = COSINE["torch, last dimension"]
    model = Call(lambda m, x: F.cosine_similarity(x, m.weight, dim=1))
    same(model, literal, torch.randn(2, 4).double(), gradient)


def literal_local_response(x, size, alpha, beta, k):
    """X / (k + α · mean of squares of `size` channels)^β, in a loop over channels."""
    channels = []
    for c in range(x.shape[1]):
        low, high = max(0, c - size // 2), min(x.shape[1], c + (size - 1) // 2 + 1)
        mean = (x[:, low:high] ** 2).sum(1) / size
        channels.append(x[:, c] / ((k + alpha * mean) ** beta).detach())
    return torch.stack(channels, 1)


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 5, 3, 3), (2, 5, 2, 2, 2)])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response_norm_freezes_the_neighbours(shape, size, gradient):
    model = Call(lambda m, x: F.local_response_norm(x, size, 0.4, 0.75, 2.0))
    same(model, lambda x: literal_local_response(x, size, 0.4, 0.75, 2.0), torch.randn(shape).double(), gradient)


def test_local_response_norm_module_is_explained_completely():
    model = nn.Sequential(nn.Conv2d(3, 5, 2), nn.ReLU(), nn.LocalResponseNorm(3, alpha=0.5), nn.Flatten()).double()
    x = torch.randn(2, 3, 4, 4).double()
    e = explain(model, x, target=4)
    torch.testing.assert_close(e.score, model(x)[:, 4].detach())
    assert (e.residual.abs() < 1e-12).all()
    assert list(e.bias_terms) == ["0.bias"]


def test_local_response_norm_of_zero_has_the_weight_of_its_neighbours(gradient):
    x = torch.randn(2, 5, 3).double()
    x[:, 2] = 0
    model = Call(lambda m, v: F.local_response_norm(v, 3, 0.4, 0.75, 2.0))
    same(model, lambda v: literal_local_response(v, 3, 0.4, 0.75, 2.0), x, gradient)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.layer_norm(x, (4,), weight=x[0].tanh()),
        lambda m, x: F.layer_norm(x, (4,), m.weight, bias=x[0]),
        lambda m, x: F.group_norm(x, 2, weight=x[0].tanh()),
    ],
    ids=["weight", "bias", "group"],
)
def test_scale_and_shift_of_a_norm_may_depend_on_the_input(function):
    """Conditional norms, as they are written with functions."""
    model = Call(function)
    x = torch.randn(1, 4).double()
    e = explain(model, x, target=1)
    torch.testing.assert_close(e.score, model(x)[:, 1].detach())
    assert (e.residual.abs() < 1e-12).all()
    assert not e.bias.any()
