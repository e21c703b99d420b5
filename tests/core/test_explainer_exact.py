"""score = W(x)·x + b(x), with W(x) the Jacobian of the frozen network."""

import pytest
import torch
from torch import nn

from bcos_core import (
    BcosConv1d,
    BcosConv2d,
    BcosConv3d,
    BcosLinear,
    BcosSelfAttention,
    explain,
    explanation_mode,
    norms,
)

NETS_WITH_A_TERM = {"mixed_cnn": "1.bias", "mixed_transformer": "position", "bcos_cnn": "logit bias"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_contributions_and_bias_sum_to_the_logit(net, images, scale, dtype, tolerance):
    net, images = net.to(dtype), images.to(dtype)
    e = explain(net, images)
    with torch.no_grad():
        logits = net(images)
    torch.testing.assert_close(e.logits, logits)
    assert torch.equal(e.target, logits.argmax(1))
    torch.testing.assert_close(e.score, logits.amax(1))
    total = e.contributions.flatten(1).sum(1) + e.bias
    assert ((total - logits.amax(1)).abs() <= tolerance * scale(e)).all()
    torch.testing.assert_close(e.map.flatten(1).sum(1), e.contributions.flatten(1).sum(1))
    torch.testing.assert_close(sum(e.bias_terms.values()), e.bias)


def test_weight_is_the_gradient_in_explanation_mode(net, images):
    e = explain(net, images, target=2)
    leaf = images.clone().requires_grad_()
    with explanation_mode(net):
        net(leaf)[:, 2].sum().backward()
    torch.testing.assert_close(e.weight, leaf.grad)


@pytest.mark.parametrize("net", ["mixed_cnn", "mixed_transformer"], indirect=True)
def test_bias_terms_are_gradient_times_value_of_each_parameter(net, images):
    """All parameters that are only ever added, through plain autograd."""
    e = explain(net, images[:1], target=2)
    added = {name: p for name, p in net.named_parameters() if name.endswith("bias") or name == "position"}
    with explanation_mode(net):
        score = net(images[:1].clone().requires_grad_())[0, 2]
    gradients = torch.autograd.grad(score, list(added.values()), allow_unused=True)
    for (name, parameter), gradient in zip(added.items(), gradients, strict=True):
        torch.testing.assert_close(e.bias_terms[name], (gradient * parameter).sum().detach()[None])


def test_expected_terms_are_named(request, net, images):
    name = NETS_WITH_A_TERM[request.node.callspec.params["net"]]
    assert explain(net, images).bias_terms[name].abs().min() > 0


def test_bcos_network_without_logit_bias_has_no_bias(images):
    net = nn.Sequential(BcosConv2d(3, 5, 3), norms.BatchNormUncentered2d(5), nn.AvgPool2d(4), nn.Flatten())
    e = explain(net.double().eval(), images)
    assert e.bias_terms == {}
    assert (e.bias == 0).all()


def test_weight_is_the_jacobian_of_the_frozen_network(images):
    """Conv, uncentred norm and B = 1.5 head, frozen at x and fed with one pixel after the other."""
    net = nn.Sequential(
        BcosConv2d(3, 4, 3, b=2),
        norms.PositionNormUncentered2d(4),
        BcosConv2d(4, 5, 4, b=1.5),
        nn.Flatten(),
    ).double()
    first, last = (w / w.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for w in (net[0].weight, net[2].weight))
    patches = nn.functional.unfold(images, 3)  # (N, 27, 16)
    linear = first.flatten(1) @ patches
    cos1 = (linear / (patches.square().sum(1, keepdim=True) + 1e-6).sqrt()).abs()
    hidden = cos1 * linear
    std = (hidden.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    hidden = hidden / std  # (N, 4, 16)
    linear = hidden.flatten(1) @ last.flatten(1).T
    cos2 = (linear / (hidden.flatten(1).square().sum(1, keepdim=True) + 1e-6).sqrt()).abs()
    cos2 = (cos2 + 1e-6) ** 0.5

    def frozen(x):
        inner = cos1 * (first.flatten(1) @ nn.functional.unfold(x, 3)) / std
        return cos2 * (inner.flatten(1) @ last.flatten(1).T)

    torch.testing.assert_close(frozen(images), net(images))
    e = explain(net, images, target=torch.arange(5).expand(3, 5))
    for i, pixel in enumerate(torch.eye(108).double().reshape(108, 3, 6, 6)):
        column = frozen(pixel.expand(3, 3, 6, 6))
        torch.testing.assert_close(e.weight.flatten(2)[:, :, i], column.detach(), rtol=1e-8, atol=1e-10)


def test_batched_equals_one_by_one(net, images):
    together = explain(net, images, target=[0, 3, 1])
    for i, target in enumerate([0, 3, 1]):
        alone = explain(net, images[i : i + 1], target=target)
        for name in ("weight", "bias", "score", "logits", "map", "target"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(alone, name)[0])
        for name, share in alone.bias_terms.items():
            torch.testing.assert_close(together.bias_terms[name][i], share[0])


def test_many_targets_equal_separate_calls(net, images):
    targets = torch.tensor([[0, 1, 4], [2, 2, 3], [1, 0, 0]])
    together = explain(net, images, targets)
    assert together.weight.shape == (3, 3, 3, 6, 6)
    assert together.map.shape == (3, 3, 6, 6)
    for t in range(3):
        alone = explain(net, images, targets[:, t])
        for name in ("weight", "bias", "score", "target", "map", "residual"):
            torch.testing.assert_close(getattr(together, name)[:, t], getattr(alone, name), rtol=1e-9, atol=1e-12)
        for name, share in alone.bias_terms.items():
            torch.testing.assert_close(together.bias_terms[name][:, t], share)


class TokensModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = BcosSelfAttention(4, 2)

    def forward(self, x):
        return self.attention(x).mean(1)


KINDS = {
    "vectors": ((3, 7), lambda: nn.Sequential(BcosLinear(7, 6), nn.Linear(6, 4))),
    "tokens": ((2, 5, 4), TokensModel),
    "sequences": (
        (2, 3, 9),
        lambda: nn.Sequential(BcosConv1d(3, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    ),
    "greyscale": ((2, 2, 6, 6), lambda: nn.Sequential(BcosConv2d(2, 4, 6), nn.Flatten())),
    "13 channels": (
        (2, 13, 4, 4),
        lambda: nn.Sequential(BcosConv2d(13, 4, 4), nn.Flatten(), nn.Linear(4, 4)),
    ),
    "volumes": (
        (2, 1, 4, 5, 6),
        lambda: nn.Sequential(BcosConv3d(1, 4, 4), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_every_rank_are_explained(kind, scale):
    shape, build = KINDS[kind]
    x = torch.randn(shape).double()
    e = explain(build().double(), x, target=[[0, 3]] * shape[0])
    assert e.weight.shape == (shape[0], 2, *shape[1:])
    assert e.map.shape == (shape[0], 2, *(shape[2:] or shape[1:]))
    assert (e.residual.abs() <= 1e-9 * scale(e)).all()


def test_zero_input_is_explained_by_the_bias_alone(net):
    e = explain(net, torch.zeros(1, 3, 6, 6).double())
    assert (e.contributions == 0).all()
    torch.testing.assert_close(e.bias, e.score)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_explained_without_a_check(dtype, images):
    net = nn.Sequential(BcosConv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(dtype)
    e = explain(net, images.to(dtype), target=1)
    assert e.weight.dtype == dtype
    reference = explain(net.float(), images.to(dtype).float(), target=1)
    torch.testing.assert_close(e.weight.float(), reference.weight, rtol=0.1, atol=0.02)
